//! Keys of free text: the key of a month goes when the last sandbox that was requested in it has.

/// Whether an account's key of `month` goes. Months are year times 100 plus month; `lately` is the last one in which a sandbox may still be
/// requested or just was, and `kept` are those in which the account's sandboxes were requested that are still there.
pub fn key_goes(month: u32, lately: u32, mut kept: impl Iterator<Item = u32>) -> bool {
    month < lately && kept.all(|other| other != month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_month_goes_when_it_is_over_and_none_of_its_sandboxes_is_left() {
        for (month, kept, goes) in [
            (202_611, &[202_612][..], true),
            (202_611, &[202_611, 202_701], false),
            (202_611, &[], true),
            (202_612, &[], false),
            (202_701, &[], false),
        ] {
            assert_eq!(key_goes(month, 202_612, kept.iter().copied()), goes, "{month} {kept:?}");
        }
    }
}
