//! Opening accounts: one address, one account, whoever races.

use std::sync::Arc;

use omnirun_commands_api::Outcome;
use omnirun_events::AccountId;

use crate::support::*;

async fn account_of(
    process: &Process,
    world: &World,
    email: &str,
    code: &str,
    challenge: omnirun_events::ChallengeId,
) -> AccountId {
    match process
        .send(world.envelope(verify(email, Some(challenge), code)))
        .await
        .expect("right code")
        .outcome
    {
        Outcome::SignedIn { account, .. } => account,
        other => panic!("not signed in: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_sign_ups_with_one_address_open_one_account() {
    for _ in 0..10 {
        let world = World::new().await;
        // Two processes do not know of each other's challenges, so both reserve an account of their own.
        let (first, second) = (world.process().await, world.process().await);
        let one = first.ask_for_code(&world, "a@example.org").await;
        let code_one = world.mailbox.code(1).await;
        let two = second.ask_for_code(&world, "a@example.org").await;
        let code_two = world.mailbox.code(2).await;
        let (a, b) = tokio::join!(
            account_of(&first, &world, "a@example.org", &code_one, one),
            account_of(&second, &world, "a@example.org", &code_two, two),
        );
        assert_eq!(a, b);
        assert_eq!(first.view(&world, |directory| directory.accounts.iter().count()).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_people_sign_up_at_once_and_each_gets_an_account() {
    let world = Arc::new(World::new().await);
    let processes = [Arc::new(world.process().await), Arc::new(world.process().await)];
    let mut asked = Vec::new();
    for n in 0..16 {
        let (process, email) = (processes[n % 2].clone(), format!("a{n}@example.org"));
        let challenge = process.ask_for_code(&world, &email).await;
        asked.push((process, email, challenge, world.mailbox.code(n + 1).await));
    }
    // Mails are sent in the background; each code is the one of its address all the same.
    let recipients = world.mailbox.recipients();
    let tasks = asked.into_iter().enumerate().map(|(n, (process, email, challenge, code))| {
        assert_eq!(recipients[n], email);
        let world = world.clone();
        tokio::spawn(async move { account_of(&process, &world, &email, &code, challenge).await })
    });
    let mut accounts = std::collections::HashSet::new();
    for task in tasks.collect::<Vec<_>>() {
        accounts.insert(task.await.expect("no panic"));
    }
    assert_eq!(accounts.len(), 16);
    assert_eq!(processes[0].view(&world, |directory| directory.accounts.iter().count()).await, 16);
}
