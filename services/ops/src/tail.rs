//! `omnirun ops tail`: the stored records as they are, checked by nobody.

use std::io::Write;

use omnirun_events::log::{PAGE_RECORDS_MAX, Sequence, Tail};
use omnirun_events::subject::{Filter, Log};

use crate::context::Source;
use crate::exit::Exit;
use crate::shown;

/// Positions back from the end that are printed when none is named.
const BACK: u64 = 20;

/// How a record is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Line,
    Json,
}

/// What happens at the end of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Stop,
    Follow,
}

/// What is to be printed.
pub(crate) struct Wish {
    pub log: Log,
    pub filter: String,
    pub from: Option<u64>,
    pub form: Form,
    pub end: End,
}

pub(crate) async fn run(source: &Source, wish: Wish, out: &mut impl Write) -> anyhow::Result<Exit> {
    let after = match wish.from {
        Some(from) => Sequence(from.saturating_sub(1)),
        None => Sequence(source.read.head(wish.log).await?.0.saturating_sub(BACK)),
    };
    if wish.form == Form::Line {
        writeln!(out, "list: stored records of {}, not verified", wish.log)?;
    }
    let mut cursor = source.read.read(wish.log, Filter::from_text(wish.filter), after).await?;
    let mut tail = Tail::Return;
    loop {
        let page = cursor.next(PAGE_RECORDS_MAX, tail).await?;
        if page.records.is_empty() && wish.end == End::Stop {
            return Ok(Exit::Good);
        }
        for stored in &page.records {
            match wish.form {
                Form::Line => writeln!(out, "{}", shown::as_line(wish.log, stored))?,
                Form::Json => writeln!(out, "{}", shown::as_json(wish.log, stored))?,
            }
        }
        out.flush()?;
        if page.records.is_empty() {
            tail = Tail::Wait;
        }
    }
}
