# kafka-python from PyPI. The checks themselves are functions of py/checks.py.
# needs: python

py() { "$python" "$here/py/checks.py" "$1" "$BOOTSTRAP"; }

check_python_producer_consumer() { # 60
  py producer_consumer
}
check_python_codec_none() { # 60
  py codec_none
}
check_python_codec_gzip() { # 60
  py codec_gzip
}
check_python_codec_snappy() { # 60
  py codec_snappy
}
check_python_codec_lz4() { # 60
  py codec_lz4
}
check_python_codec_zstd() { # 60
  py codec_zstd
}
check_python_idempotent() { # 60
  py idempotent
}
check_python_acks() { # 60
  py acks
}
check_python_too_large() { # 60
  py too_large
}
check_python_offsets() { # 60
  py offsets
}
check_python_group() { # 180
  py group
}
check_python_resume() { # 60
  py resume
}
check_python_admin() { # 60
  py admin
}
