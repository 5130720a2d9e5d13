//! `omnirun ops show`: one stored record, decoded, checked by nobody.

use std::io::Write;

use anyhow::bail;
use omnirun_events::log::{Position, Sequence, Tail};
use omnirun_events::subject::Filter;

use crate::context::Source;
use crate::exit::Exit;
use crate::shown;

pub(crate) async fn run(source: &Source, at: Position, out: &mut impl Write) -> anyhow::Result<Exit> {
    let after = Sequence(at.sequence.0.saturating_sub(1));
    let mut cursor = source.read.read(at.log, Filter::all(), after).await?;
    let page = cursor.next(1, Tail::Return).await?;
    match page.records.first() {
        Some(stored) if stored.sequence == at.sequence => {
            writeln!(out, "{:#}", shown::as_json(at.log, stored))?;
            Ok(Exit::Good)
        }
        _ => {
            let head = source.read.head(at.log).await?;
            if at.sequence > head {
                bail!("{} ends at {head}; there is no position {} yet", at.log, at.sequence);
            }
            bail!("the record at {at} was removed; only its number is left");
        }
    }
}
