//! Limits under races: four processes on one log, thirty-two requests at once, and each limit admits exactly what it allows.

use std::sync::Arc;

use omnirun_billing::Plans;
use omnirun_commands::Parts;
use omnirun_commands_api::command::SandboxWish;
use omnirun_commands_api::{Code, Command, Outcome};
use omnirun_events::keys::Digest;
use omnirun_events::sandbox::*;
use omnirun_events::unit::Seconds;
use omnirun_events::*;

use crate::support::*;

const AT_ONCE: usize = 32;

/// The project's plans with one number of the first one changed.
fn changed(from: &str, to: &str) -> Plans {
    let text =
        include_str!("../../../../infra/plans.toml").replacen("concurrency = 20", "concurrency = 99", 1);
    assert!(text.contains(from), "{from}");
    Plans::parse(&text.replacen(from, to, 1)).expect("valid")
}

struct Race {
    world: Arc<World>,
    processes: Vec<Arc<Process>>,
    account: AccountId,
}

impl Race {
    async fn on(plans: Plans) -> Self {
        let (world, plans) = (Arc::new(World::new().await), Arc::new(plans));
        let mut processes = Vec::new();
        for _ in 0..4 {
            let plans = plans.clone();
            processes.push(Arc::new(world.process_of(|parts| Parts { plans, ..parts }).await));
        }
        let account = world.sign_in(&processes[0], "a@example.org").await;
        Self { world, processes, account }
    }

    fn request(&self, seconds: u32) -> Command {
        let wish = SandboxWish { timeout: Seconds(seconds), ..sandbox_wish() };
        Command::RequestSandbox { account: self.account, wish }
    }

    /// Sends them all at once, spread over the processes; how many were followed, and the codes of the refusals.
    async fn run(&self, commands: Vec<Command>) -> (usize, Vec<Code>) {
        let sent = commands.into_iter().enumerate().map(|(n, command)| {
            let process = self.processes[n % self.processes.len()].clone();
            let envelope = self.world.envelope(command);
            tokio::spawn(async move { process.send(envelope).await })
        });
        let (mut followed, mut refused) = (0, Vec::new());
        for answer in sent.collect::<Vec<_>>() {
            match answer.await.expect("no panic") {
                Ok(_) => followed += 1,
                Err(rejection) => refused.push(rejection.code),
            }
        }
        (followed, refused)
    }

    async fn running(&self) -> SandboxId {
        let asked = self.processes[0].send(self.world.envelope(self.request(60))).await.expect("room");
        let Outcome::SandboxRequested { sandbox, .. } = asked.outcome else { panic!("not admitted") };
        let (own, digest) = (SubjectKind::Sandbox(self.account, sandbox), Digest([0; 32]));
        self.world.as_worker(own, SandboxClaimed { host: HOST }).await;
        let (started_at, end_at) = (self.world.time(), self.world.time().after(Millis(60_000)));
        let from = StartedFrom::Pool;
        let started = SandboxStarted { started_at, end_at, from, root: digest, kernel: digest };
        self.world.as_worker(own, started).await;
        sandbox
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_hours_of_a_month_are_admitted_to_the_last_one_and_not_beyond() {
    let race = Race::on(changed("hours_included = 25", "hours_included = 5")).await;
    let commands = (0..AT_ONCE).map(|_| race.request(1800)).collect();
    assert_eq!(race.run(commands).await, (10, vec![Code::PlanLimit; AT_ONCE - 10]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_minute_admits_more_than_the_plans_number() {
    let race = Race::on(changed("creations_per_minute = 120", "creations_per_minute = 7")).await;
    let commands = || (0..AT_ONCE).map(|_| race.request(60)).collect();
    assert_eq!(race.run(commands()).await, (7, vec![Code::RateLimited; AT_ONCE - 7]));
    race.world.pass(Millis(60_000));
    assert_eq!(race.run(commands()).await, (7, vec![Code::RateLimited; AT_ONCE - 7]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_clock_that_was_set_back_makes_nobody_wait_until_it_has_caught_up() {
    let race = Race::on(changed("creations_per_minute = 120", "creations_per_minute = 7")).await;
    race.world.pass(Millis(3_600_000));
    let commands = || (0..AT_ONCE).map(|_| race.request(60)).collect();
    assert_eq!(race.run(commands()).await.0, 7);
    race.world.set_back(Millis(1_800_000));
    assert_eq!(race.run(commands()).await, (7, vec![Code::RateLimited; AT_ONCE - 7]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn extensions_and_requests_share_the_hours_of_a_month() {
    let race = Race::on(changed("hours_included = 25", "hours_included = 2")).await;
    let mut sandboxes = Vec::new();
    for _ in 0..4 {
        sandboxes.push(race.running().await);
    }
    // 4 x 60 s are reserved; each extension takes 1740 s more and each request 1800 s, of 6960 s that are left.
    let extend = |n: usize| Command::ExtendTimeout {
        account: race.account,
        sandbox: sandboxes[n % 4],
        timeout: Seconds(1800),
    };
    let commands =
        (0..AT_ONCE).map(|n| if n % 2 == 0 { extend(n / 2) } else { race.request(1800) }).collect();
    race.run(commands).await;
    let reserved = race.processes[0].view(&race.world, |directory| {
        let of = directory.sandboxes.of(race.account);
        of.map(|(_, one)| one.charged().0).sum::<u64>()
    });
    let reserved = reserved.await;
    assert!(reserved <= 7_200_000, "{reserved} ms");
    assert!(reserved > 7_200_000 - 1_800_000, "{reserved} ms: there was room for more");
}
