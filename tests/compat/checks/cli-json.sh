# The command line for programs: what `--output json` prints has the shapes of broker/docs/cli.md. The checks are functions of grpc/outputs.py.
# needs: grpc-door http-door command-line

outputs() { DOCUMENT=$root/broker/docs/cli.md MILLRACE=$(binary) python3 "$here/grpc/outputs.py" "$1"; }

check_cli_json_documented() { # 90
  outputs documented
}
check_cli_json_topics() { # 90
  outputs topics
}
check_cli_json_records() { # 90
  outputs records
}
check_cli_json_offsets() { # 90
  outputs offsets
}
check_cli_json_groups() { # 90
  outputs groups
}
check_cli_json_configs() { # 90
  outputs configs
}
check_cli_json_top() { # 90
  outputs top
}
check_cli_json_bench() { # 90
  outputs bench
}
check_cli_json_doctor() { # 90
  outputs doctor
}
check_cli_json_contexts() { # 90
  outputs contexts
}
check_cli_json_errors() { # 90
  outputs errors
}
