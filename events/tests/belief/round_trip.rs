//! Whatever is written reads back, and whatever is read does no harm.

use omnirun_events::event::EventName;
use omnirun_events::sealing::{DataKeyLabel, Sealed};
use omnirun_events::token::{Scope, TokenCreated, TokenKind, TokenVerifier};
use omnirun_events::unit::*;
use omnirun_events::usage::{Meter, UsageMetered};
use omnirun_events::*;
use proptest::prelude::*;

use crate::sample::*;

fn sealed() -> impl Strategy<Value = Sealed> {
    let label = prop_oneof![
        Just(DataKeyLabel::Account),
        any::<u32>().prop_map(DataKeyLabel::Address),
        any::<u32>().prop_map(DataKeyLabel::Month)
    ];
    (label, any::<[u8; 24]>(), prop::collection::vec(any::<u8>(), 0..300))
        .prop_map(|(key, nonce, text)| Sealed { key, nonce, text })
}

fn some_event() -> impl Strategy<Value = Event> {
    let samples: Vec<Event> = every_event().collect();
    let token = (
        any::<([u8; 16], [u8; 32])>(),
        prop::option::of(sealed()),
        prop::sample::subsequence(Scope::ALL.to_vec(), 0..=6),
        ".*",
        prop::option::of(any::<u64>()),
    )
        .prop_map(|((token, verifier), name, scopes, hint, expires_at)| TokenCreated {
            token: TokenId::from_bytes(token),
            kind: TokenKind::Api,
            verifier: TokenVerifier(verifier),
            name,
            scopes,
            hint,
            expires_at: expires_at.map(Timestamp),
        });
    let metered = any::<(u32, u64, [u64; 5])>().prop_map(|(period, at, [a, b, c, d, e])| UsageMetered {
        period,
        observed_at: Timestamp(at),
        meter: Meter {
            wall: Millis(a),
            vcpu: Millis(b),
            memory: MebibyteSeconds(c),
            received: Bytes(d),
            sent: Bytes(e),
        },
    });
    let unknown = ("new\\.[a-z]{1,9}", any::<u16>(), prop::collection::vec(any::<u8>(), 0..99))
        .prop_map(|(name, version, body)| Event::Unknown { name: EventName(name.into(), version), body });
    prop_oneof![
        prop::sample::select(samples),
        token.prop_map(Event::from),
        metered.prop_map(Event::from),
        unknown
    ]
}

fn draft() -> impl Strategy<Value = Draft> {
    let ids = any::<([u8; 16], [u8; 16], Option<[u8; 16]>, u64)>();
    (ids, prop::collection::vec(some_event(), 1..5)).prop_map(|((commit, account, cause, at), events)| {
        Draft {
            commit: CommitId::from_bytes(commit),
            subject: SubjectKind::Account(AccountId::from_bytes(account)).into(),
            at: Timestamp(at),
            actor: Actor::Account(AccountId::from_bytes(account)),
            cause: cause.map(CommitId::from_bytes),
            events,
        }
    })
}

proptest! {
    #[test]
    fn a_signed_draft_reads_back_as_it_was(draft in draft(), version in 0..u64::MAX, hash in any::<[u8; 32]>()) {
        let by = signer(Role::Commands, 0);
        let head = Head { sequence: Sequence(1), version, hash: RecordHash(hash) };
        let signed = by.sign(&draft, &head).expect("it is small");
        let record = codec::decode(&signed.bytes).expect("it was just encoded");
        prop_assert_eq!(&record.events, &draft.events);
        let header = &record.header;
        prop_assert_eq!((header.commit, &header.subject, header.at), (draft.commit, &draft.subject, draft.at));
        prop_assert_eq!((header.actor, header.cause, header.key), (draft.actor, draft.cause, by.id()));
        prop_assert_eq!((header.version, header.previous), (version + 1, RecordHash(hash)));
        prop_assert_eq!((record.hash(), header.version), (signed.hash, signed.version));
    }

    #[test]
    fn any_bytes_are_a_record_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(codec::decode(&bytes).is_err());
    }

    #[test]
    fn any_text_is_a_subject_that_prints_alike_or_an_error(start in "(usage\\.[+0-9]{2}|key|evt)", end in "(account|address\\.[+0-9]{1,3}|[+0-9]{6}|[a-z]*)") {
        let text = match start.strip_prefix("usage") {
            Some(_) => format!("{start}.{}.{}", account(), sandbox()),
            None => format!("{start}.{}.{end}", account()),
        };
        if let Ok(subject) = text.parse::<Subject>() {
            prop_assert_eq!(subject.as_str(), &text);
            prop_assert_eq!(subject.kind().to_string(), text);
        }
    }
}
