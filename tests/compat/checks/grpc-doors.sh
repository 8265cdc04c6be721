# One log behind two doors: a Python client of the gRPC door against kcat and kafka-python. The checks are functions of grpc/doors.py.
# needs: grpc-door grpc-python python kcat

both() { PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$grpc_py "$python" "$here/grpc/doors.py" "$1"; }

check_grpc_doors_kafka_python() { # 60
  both kafka_python
}
check_grpc_doors_kcat() { # 60
  both kcat
}
check_grpc_doors_bytes_of_the_log() { # 60
  both bytes_of_the_log
}
check_grpc_doors_idempotent() { # 60
  both idempotent
}
check_grpc_doors_group() { # 120
  both group
}
check_grpc_doors_offsets_shared() { # 60
  both offsets_shared
}
