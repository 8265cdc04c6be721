# A Python client of the gRPC door, generated from the .proto files. The checks themselves are functions of grpc/*.py.
# needs: grpc-door grpc-python python kcat

door() { PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$grpc_py "$python" "$here/grpc/$1.py" "$2"; }

check_grpc_python_produce_unary() { # 60
  door produce unary
}
check_grpc_python_produce_unary_batch() { # 60
  door produce unary_batch
}
check_grpc_python_produce_time_of_the_broker() { # 60
  door produce time_of_the_broker
}
check_grpc_python_produce_partitions() { # 60
  door produce partitions
}
check_grpc_python_produce_stream() { # 60
  door produce stream
}
check_grpc_python_produce_idempotent() { # 60
  door produce idempotent
}
check_grpc_python_produce_refusals() { # 60
  door produce refusals
}
check_grpc_python_consume_positions() { # 60
  door consume positions
}
check_grpc_python_consume_many_partitions() { # 60
  door consume many_partitions
}
check_grpc_python_consume_batches() { # 60
  door consume batches
}
check_grpc_python_consume_credits() { # 60
  door consume credits
}
check_grpc_python_consume_seek() { # 60
  door consume seek
}
check_grpc_python_consume_pause() { # 60
  door consume pause
}
check_grpc_python_consume_group() { # 120
  door consume group
}
check_grpc_python_consume_group_late() { # 90
  door consume group_late
}
check_grpc_python_consume_group_commits() { # 60
  door consume group_commits
}
check_grpc_python_consume_group_reset() { # 60
  door consume group_reset
}
check_grpc_python_consume_group_protocols() { # 60
  door consume group_protocols
}
check_grpc_python_consume_group_again() { # 60
  door consume group_again
}
check_grpc_python_consume_group_static() { # 90
  door consume group_static
}
check_grpc_python_consume_flood() { # 60
  door consume flood
}
check_grpc_python_admin_topics() { # 60
  door admin topics
}
check_grpc_python_admin_internal() { # 60
  door admin internal
}
check_grpc_python_admin_offsets() { # 60
  door admin offsets
}
check_grpc_python_admin_groups() { # 120
  door admin groups
}
check_grpc_python_admin_configs() { # 60
  door admin configs
}
check_grpc_python_admin_cluster() { # 60
  door admin cluster
}
check_grpc_python_admin_watch_topics() { # 60
  door admin watch_topics
}
check_grpc_python_admin_watch_lag() { # 60
  door admin watch_lag
}
check_grpc_python_admin_deadlines() { # 60
  door admin deadlines
}

member() { PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$grpc_py exec "$python" "$here/grpc/member.py" "$@"; }
publish() { (member produce "$1"); }
read_records() { member consume records "$@"; }
read_batches() { member consume batches "$@"; }
check_grpc_python_lines() { # 90
  services_lines publish read_records
}
check_grpc_python_lines_batches() { # 90
  services_lines publish read_batches
}
