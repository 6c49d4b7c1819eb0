//! The command line: arguments, rendering, exit codes. The only part of the runtime that knows a terminal.

mod admin;
mod args;
mod check;
mod dead_letters;
mod hooks;
mod inspect;
mod mapper;
mod prepare;
mod reporters;
mod run;
mod serve;
mod status;
mod verify;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

use crate::host::guest_text::is_unprintable;
use args::{Arguments, Command};

/// The configuration cannot work, or the command line is wrong.
const USAGE: u8 = 2;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    // Before any thread is started: it limits its own address space.
    if let Command::CompileComponent {
        memory_bytes,
        cpu_seconds,
    } = arguments.command
    {
        return crate::sandbox::compiler::child(memory_bytes, cpu_seconds);
    }
    crate::memory::share_one_heap();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}"), 1),
    };
    let code = runtime.block_on(async {
        match arguments.command {
            Command::Run(run) => run::run(*run).await,
            Command::Check(check) => check::check(*check).await,
            Command::Verify(verify) => verify::verify(*verify).await,
            Command::Status(status) => status::status(status).await,
            Command::Hooks(command) => hooks::hooks(command).await,
            Command::DeadLetters(command) => dead_letters::dead_letters(command).await,
            Command::Inspect(inspect) => inspect::inspect(inspect).await,
            Command::Serve(arguments) => serve::serve(*arguments).await,
            Command::Admin(arguments) => admin::admin(*arguments).await,
            Command::Mapper(command) => mapper::mapper(command).await,
            Command::CompileComponent { .. } => USAGE,
        }
    });
    // Requests that nobody waits for any more must not hold the process.
    runtime.shutdown_background();
    ExitCode::from(code)
}

fn fail(message: &str, code: u8) -> ExitCode {
    complain(message);
    ExitCode::from(code)
}

/// An error, on standard error. Many are told in the words of a server.
fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "error: {}", escaped(message));
}

/// A line of the command's own output. A closed pipe is no error of ours.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Text from outside for a terminal: whole, lines and columns kept, what would command it escaped.
fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unprintable(c) && c != '\n' && c != '\t' {
            shown.extend(c.escape_debug());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_command_a_terminal_is_shown_instead_and_all_else_is_as_it_was() {
        let words = "503 \u{1b}[2J\u{1b}]0;owned\u{7} \u{9b}31m\rfine \u{202e}gpj";
        assert_eq!(
            escaped(words),
            r"503 \u{1b}[2J\u{1b}]0;owned\u{7} \u{9b}31m\rfine \u{202e}gpj"
        );
        let plain = "it's `50 %` of \"größer\"\n\tand C:\\x 日本";
        assert_eq!(escaped(plain), plain);
    }
}
