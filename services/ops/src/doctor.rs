//! `omnirun doctor`: what this host can do for sandboxes, why, and what to change; one line for each.
//!
//! Reading order: [`facts`] (what is read of the host), [`findings`] (what it means; pure), and here how it is printed. What
//! only a monitor can say, such as whether KVM works, is handed in by `services/main.rs`.

pub mod facts;

pub mod findings;

use std::io::{self, Write};

use crate::exit::Exit;

pub use facts::Facts;
pub use findings::{Finding, Grade, Handed, Trouble, examine};

/// Prints the findings, aligned, and whether sandboxes can run. A reader that closes the output early is no error.
pub fn print(findings: &[Finding], out: &mut dyn Write) -> Exit {
    match write(findings, out) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Exit::Failed,
        _ if is_able(findings) => Exit::Good,
        _ => Exit::Bad,
    }
}

/// Whether nothing of it forbids sandboxes.
fn is_able(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.grade != Grade::Bad)
}

fn write(findings: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    for Finding { grade, name, text, remedy } in findings {
        write!(out, "{:<4}  {name:<width$}  {text}", grade.word())?;
        match remedy {
            Some(remedy) => writeln!(out, ": {remedy}")?,
            None => writeln!(out)?,
        }
    }
    let can = if is_able(findings) { "can" } else { "cannot" };
    writeln!(out, "sandboxes {can} run on this host")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(grade: Grade, name: &'static str, remedy: Option<&str>) -> Finding {
        Finding { grade, name, text: "it is so".to_owned(), remedy: remedy.map(str::to_owned) }
    }

    #[test]
    fn findings_are_aligned_and_end_with_what_they_come_to() {
        let mut out = Vec::new();
        let mut findings =
            vec![finding(Grade::Ok, "kvm", None), finding(Grade::Warn, "images", Some("do this"))];
        assert_eq!(print(&findings, &mut out), Exit::Good);
        let expected =
            "ok    kvm     it is so\nwarn  images  it is so: do this\nsandboxes can run on this host\n";
        assert_eq!(String::from_utf8_lossy(&out), expected);
        findings.push(finding(Grade::Bad, "x", None));
        out.clear();
        assert_eq!(print(&findings, &mut out), Exit::Bad);
        assert!(out.ends_with(b"bad   x       it is so\nsandboxes cannot run on this host\n"));
    }

    #[test]
    fn a_reader_that_has_gone_changes_no_verdict() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert_eq!(print(&[finding(Grade::Ok, "kvm", None)], &mut Gone), Exit::Good);
        assert_eq!(print(&[finding(Grade::Bad, "kvm", None)], &mut Gone), Exit::Bad);
    }
}
