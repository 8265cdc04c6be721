# A Go client of the gRPC door, generated from the .proto files. The checks themselves are in grpc/go/checks.go.
# needs: grpc-door grpc-go kcat

go_check() { "$grpc_judge" check "$1"; }

check_grpc_go_produce_stream() { # 60
  go_check produce-stream
}
check_grpc_go_consume() { # 60
  go_check consume
}
check_grpc_go_group() { # 90
  go_check group
}
check_grpc_go_admin() { # 60
  go_check admin
}
publish() { "$grpc_judge" produce "$1"; }
read_lines() { exec "$grpc_judge" consume "$@"; }
check_grpc_go_lines() { # 90
  services_lines publish read_lines
}
