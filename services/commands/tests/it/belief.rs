//! What the service believes of what is on the logs, and how it goes on after what it does not.

use std::sync::Arc;

use omnirun_commands::Parts;
use omnirun_commands_api::{Code, Command, Outcome};
use omnirun_events::keys::{KeyEnrolled, KeyRetired};
use omnirun_events::signing::Signer;
use omnirun_events::*;
use omnirun_projections::sandboxes::State;

use crate::support::*;

/// Another commands key, enrolled in place of the first one.
async fn replace_commands_key(world: &World) -> impl Fn(Parts) -> Parts {
    let signer = || Signer::from_seed(&[4; 32], Role::Commands);
    let (key, public) = (signer().id(), signer().public());
    let enrolled = KeyEnrolled { key, public, role: Role::Commands, host: None };
    world.append(&world.root, Actor::Operator, SubjectKind::KeyRing, enrolled).await;
    let retired = KeyRetired { key: commands_signer().id() };
    world.append(&world.root, Actor::Operator, SubjectKind::KeyRing, retired).await;
    move |parts| Parts { signer: signer(), ..parts }
}

#[tokio::test]
async fn what_a_commands_key_wrapped_before_its_retirement_opens_and_what_it_wraps_after_it_does_not() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let email = process.view(&world, |directory| directory.accounts.get(account).cloned()).await;
    let email = email.expect("it signed in").email;
    drop(process);
    let with_new_key = replace_commands_key(&world).await;
    world.pass(Millis(1));
    let open = Command::OpenFields { account, fields: vec![email_field(account, email)] };

    let process = world.process_of(&with_new_key).await;
    let opened = process.send(world.envelope(open.clone())).await.expect("made in time").outcome;
    assert!(matches!(opened, Outcome::FieldsOpened(texts) if texts[0].is_some()));
    drop(process);

    let subject = Subject::from(SubjectKind::AddressKey(account, 1));
    let stored = world.log.last(&subject).await.expect("memory").expect("it was made");
    let wrapped = codec::decode(&stored.record).expect("a record").events.remove(0);
    let actor = Actor::System(Role::Commands);
    world.append(&commands_signer(), actor, subject.kind(), wrapped).await;
    let process = world.try_process_of(&with_new_key).await;
    let says = process.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(says.contains("cannot be believed"), "{says}");
}

#[tokio::test]
async fn a_request_on_whose_subject_a_host_has_put_rubbish_fails_in_time_like_every_other() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let request = Command::RequestSandbox { account, wish: sandbox_wish() };
    let reply = process.send(world.envelope(request)).await.expect("room");
    let Outcome::SandboxRequested { sandbox, .. } = reply.outcome else { panic!("not admitted") };
    let subject = Subject::from(SubjectKind::Sandbox(account, sandbox));
    let commit = CommitId::from_bytes([9; 16]);
    let rubbish = Entry { subject, expected: Sequence::NONE, commit, record: "no record".into() };
    world.log.append_all(Batch::one(rubbish)).await.expect("a worker may write there");

    world.pass(Millis(61_000));
    process.view(&world, |_| ()).await;
    assert_eq!(process.service.fail_unclaimed().await.expect("memory"), 1);
    let state = process.view(&world, |directory| directory.sandboxes.get(sandbox).map(|one| one.state)).await;
    assert!(matches!(state, Some(State::Failed(_))), "{state:?}");
}

#[tokio::test]
async fn a_retired_host_stops_nobody() {
    let world = Arc::new(World::new().await);
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let retired = KeyRetired { key: world.worker.id() };
    world.append(&world.root, Actor::Operator, SubjectKind::KeyRing, retired).await;
    world.as_worker(SubjectKind::Host(HOST), host::HostLeft {}).await;
    // Its last word is not believed, and everybody goes on.
    let seen = process.view(&world, |directory| directory.hosts.present().count()).await;
    assert_eq!(seen, 1);
    let create = Command::CreateToken { account, wish: token_wish(), credential: credential() };
    process.send(world.envelope(create)).await.expect("business as usual");
    let missing = Command::RevokeToken {
        account,
        token: TokenId::from_bytes([1; 16]),
        reason: token::RevokeReason::ByOwner,
    };
    assert_eq!(process.send(world.envelope(missing)).await.expect_err("none").code, Code::NotFound);
}
