//! `omnirun ops verify --export`: an export of an account, checked from nothing but the root key's fingerprint. No store is opened.

use std::io::Write;
use std::path::Path;

use omnirun_events::keys::Digest;
use omnirun_export::check::{CheckError, Checked, check};
use serde_json::json;

use crate::dispatch::Form;
use crate::exit::Exit;
use crate::text;

/// Checks the archive and prints what came of it.
pub(crate) fn run(path: &Path, root: &Digest, form: Form, out: &mut impl Write) -> anyhow::Result<Exit> {
    match check(path, root) {
        Ok(checked) => {
            print(&checked, form, out)?;
            Ok(Exit::Good)
        }
        Err(error) => bad(error, form, out),
    }
}

/// Prints why an archive is not to be trusted.
pub(crate) fn bad(error: CheckError, form: Form, out: &mut impl Write) -> anyhow::Result<Exit> {
    if let CheckError::Open(_) = error {
        // Nothing is known of what cannot be opened.
        return Err(error.into());
    }
    let why = text::chain(&error);
    match form {
        Form::Json => writeln!(out, "{:#}", json!({"good": false, "fault": why}))?,
        Form::Text => writeln!(out, "FAULT: {why}\nBAD: do not trust anything in it")?,
    }
    Ok(Exit::Bad)
}

fn print(checked: &Checked, form: Form, out: &mut impl Write) -> anyhow::Result<()> {
    let Checked { account, exported_at, files, believed, ignored } = checked;
    if form == Form::Json {
        let report = json!({
            "good": true, "account": account, "exported_at": exported_at,
            "files": files, "believed": believed, "ignored": ignored,
        });
        writeln!(out, "{report:#}")?;
        return Ok(());
    }
    writeln!(out, "account: {account}")?;
    writeln!(out, "exported at: {exported_at}")?;
    writeln!(out, "files: {files}, each as the signed manifest lists it")?;
    writeln!(out, "records: {believed} believed, {ignored} ignored")?;
    writeln!(out, "good: whoever holds the root key vouches for all of it")?;
    Ok(())
}
