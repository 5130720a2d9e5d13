//! Tokens and sealed fields, through the service.

use omnirun_commands_api::command::{Personal, SealedField};
use omnirun_commands_api::{Code, Command, Outcome};
use omnirun_events::envelope::Actor;
use omnirun_events::token::{NAME_FIELD, RevokeReason};
use omnirun_events::unit::Millis;
use omnirun_events::*;

use crate::support::*;

async fn token_of(world: &World, process: &Process, account: AccountId) -> TokenId {
    let create = Command::CreateToken { account, wish: token_wish(), credential: credential() };
    match process.send(world.envelope(create)).await.expect("a fair wish").outcome {
        Outcome::TokenCreated { token, .. } => token,
        other => panic!("no token: {other:?}"),
    }
}

#[tokio::test]
async fn a_token_is_revoked_once_and_again_without_a_second_event() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let token = token_of(&world, &process, account).await;
    let revoke = || Command::RevokeToken { account, token, reason: RevokeReason::ByOwner };
    process.send(world.envelope(revoke())).await.expect("there");
    let head = world.log.head(Log::Events).await.expect("memory");
    process.send(world.envelope(revoke())).await.expect("it is so already");
    assert_eq!(world.log.head(Log::Events).await.expect("memory"), head);
    let is_revoked =
        |directory: &omnirun_projections::Directory| directory.tokens.get(token).map(|t| t.revoked.is_some());
    assert_eq!(process.view(&world, is_revoked).await, Some(true));
}

#[tokio::test]
async fn signing_out_everywhere_ends_more_sign_ins_than_one_batch_holds_and_leaves_tokens_and_others_alone() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    for _ in 0..omnirun_events::log::BATCH_ENTRIES_MAX {
        // An address has a new code once an hour.
        world.pass(Millis(3_600_000));
        assert_eq!(world.sign_in(&process, "a@example.org").await, account);
    }
    let stranger = world.sign_in(&process, "b@example.org").await;
    let token = token_of(&world, &process, account).await;
    let ended = process.send(world.envelope(Command::SignOutEverywhere { account })).await.expect("there");
    let all = u32::try_from(omnirun_events::log::BATCH_ENTRIES_MAX).expect("small") + 1;
    assert!(matches!(ended.outcome, Outcome::SignedOut { ended } if ended == all));
    let works = |directory: &omnirun_projections::Directory| {
        let good = |account| directory.tokens.of(account).filter(|(_, t)| t.revoked.is_none());
        Some((good(account).map(|(id, _)| id).collect::<Vec<_>>(), good(stranger).count()))
    };
    assert_eq!(process.view(&world, works).await, Some((vec![token], 1)));
    let again =
        process.send(world.envelope(Command::SignOutEverywhere { account })).await.expect("so already");
    assert!(matches!(again.outcome, Outcome::SignedOut { ended: 0 }));
}

#[tokio::test]
async fn an_account_has_a_hundred_tokens_that_work_and_no_more() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let create = || Command::CreateToken { account, wish: token_wish(), credential: credential() };
    let first = token_of(&world, &process, account).await;
    // At once: a limit that only looks at what is known would let more through.
    let wishes = (0..109).map(|_| process.send(world.envelope(create())));
    let made = futures_util::future::join_all(wishes).await;
    let refused: Vec<_> = made.into_iter().filter_map(Result::err).collect();
    assert_eq!(refused.len(), 10);
    assert!(refused.iter().all(|no| no.code == Code::Invalid && no.message.contains("at most 100 tokens")));
    let revoke = Command::RevokeToken { account, token: first, reason: RevokeReason::ByOwner };
    process.send(world.envelope(revoke)).await.expect("there");
    process.send(world.envelope(create())).await.expect("there is room again");
    process.send(world.envelope(create())).await.expect_err("for one");
    world.pass(Millis(31 * 24 * 3_600_000));
    process.send(world.envelope(create())).await.expect("the others have expired");
    assert_eq!(world.sign_in(&process, "a@example.org").await, account, "signing in is never refused");
}

#[tokio::test]
async fn what_is_anothers_does_not_exist() {
    let world = World::new().await;
    let process = world.process().await;
    let owner = world.sign_in(&process, "a@example.org").await;
    let stranger = world.sign_in(&process, "b@example.org").await;
    let token = token_of(&world, &process, owner).await;
    let revoke = |account| Command::RevokeToken { account, token, reason: RevokeReason::ByOwner };
    let refused = process.send(world.envelope(revoke(stranger))).await.expect_err("not theirs");
    assert_eq!(refused.code, Code::NotFound);
    let mut envelope = world.envelope(revoke(owner));
    envelope.actor = Actor::Account(stranger);
    assert_eq!(process.send(envelope).await.expect_err("not the owner").code, Code::NotFound);
}

#[tokio::test]
async fn sealed_fields_open_for_their_account_and_place_alone() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let stranger = world.sign_in(&process, "b@example.org").await;
    let token = token_of(&world, &process, account).await;
    let sealed =
        process.view(&world, |directory| directory.tokens.get(token)?.name.clone()).await.expect("named");
    let subject = Subject::from(SubjectKind::Token(account, token));
    let field = |subject: &Subject, field: &str| SealedField {
        subject: subject.clone(),
        field: field.to_owned(),
        sealed: sealed.clone(),
    };
    let elsewhere = SubjectKind::Account(account).into();
    let fields = vec![field(&subject, NAME_FIELD), field(&subject, "other"), field(&elsewhere, NAME_FIELD)];
    let open = |account| world.envelope(Command::OpenFields { account, fields: fields.clone() });
    let Outcome::FieldsOpened(opened) = process.send(open(account)).await.expect("own").outcome else {
        panic!()
    };
    assert_eq!(opened, [Some(Personal::new("build server")), None, None]);
    let Outcome::FieldsOpened(opened) = process.send(open(stranger)).await.expect("nothing").outcome else {
        panic!()
    };
    assert_eq!(opened, [None, None, None]);
}
