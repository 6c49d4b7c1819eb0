//! The `runtime` program. Everything is in the library; see [`connector_runtime`].

fn main() -> std::process::ExitCode {
    connector_runtime::cli::main()
}
