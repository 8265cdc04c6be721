//! The broker's binary as this package builds it, so that tests have its path (`CARGO_BIN_EXE_millrace-broker`).

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    millrace::cli::run()
}
