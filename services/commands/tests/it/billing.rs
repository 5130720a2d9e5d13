//! Statements, corrections and notices: each is written once, and only what follows from the plan.

use omnirun_billing::calendar::Date;
use omnirun_billing::statement::CLOSE_AFTER;
use omnirun_billing::{Period, rate};
use omnirun_commands_api::mail::Content;
use omnirun_commands_api::{Code, Command, Envelope, Outcome};
use omnirun_events::billing::*;
use omnirun_events::envelope::Actor;
use omnirun_events::unit::{Shape, StandardMillis};
use omnirun_events::*;

use crate::support::*;

/// A statement of the month that `at` lies in, with one line of an hour, for an account that was opened at the start.
pub fn statement(at: Timestamp) -> StatementClosed {
    statement_on("sandbox", at)
}

fn statement_on(plan: &str, at: Timestamp) -> StatementClosed {
    let period = Period::of(START, at);
    let plans = plans();
    let plan = plans.get(plan).expect("there is one");
    let price = plan.price_at(period.start);
    let shape = Shape { vcpus: Vcpus(1), memory: Mebibytes(512) };
    let standard = shape.charge(Millis(3_600_000));
    let bill = rate(price, standard);
    StatementClosed {
        start: period.start,
        end: period.end,
        plan: plan.name.clone(),
        price_from: price.from,
        base: price.month,
        included: price.included,
        overage_per_second: price.overage_per_second,
        lines: vec![StatementLine { day: period.first_day(), shape: Some(shape), sandboxes: 1, standard }],
        standard,
        overage: bill.overage,
        amount: bill.amount,
        carried: Vec::new(),
        seen: Vec::new(),
    }
}

fn close(account: AccountId, statement: &StatementClosed) -> Command {
    Command::CloseStatement { account, statement: Box::new(statement.clone()) }
}

#[tokio::test]
async fn a_month_is_closed_once_in_order_and_not_before_two_days_after_its_end() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let first = statement(START);
    let envelope = || world.envelope(close(account, &first));
    let early = process.send(envelope()).await.expect_err("the month goes on");
    assert!(early.code == Code::Busy && early.retryable);
    world.pass(first.end.after(CLOSE_AFTER).since(START));
    world.pass(Millis(40 * 24 * 3_600_000));
    let closing = envelope();
    let reply = process.send(closing.clone()).await.expect("its time has come");
    assert!(matches!(reply.outcome, Outcome::StatementClosed));
    let head = world.log.head(Log::Events).await.expect("memory");
    process.send(closing).await.expect("the same wish again");
    let again = process.send(envelope()).await.expect_err("another wish about the same month");
    assert_eq!(again.code, Code::AlreadyFinal);
    // A month without use and price has no statement: the one after the next may follow.
    let third = statement(Period::of(START, Period::of(START, first.end).end).start);
    let refused = process.send(world.envelope(close(account, &third))).await.expect_err("it is not over");
    assert_eq!(refused.code, Code::Busy);
    assert_eq!(world.log.head(Log::Events).await.expect("memory"), head);
    let second = statement(first.end);
    process.send(world.envelope(close(account, &second))).await.expect("it follows");
}

#[tokio::test]
async fn a_statement_that_does_not_follow_from_plan_and_lines_is_refused() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let good = statement(START);
    world.pass(good.end.after(CLOSE_AFTER).since(START));
    let wrong: [fn(&mut StatementClosed); 6] = [
        |statement| statement.amount.0 += 1,
        |statement| statement.base.0 = 1,
        |statement| statement.standard = StandardMillis(0),
        |statement| statement.start.0 += 24 * 3_600_000,
        |statement| statement.plan = "scale".to_owned(),
        |statement| statement.lines[0].day = Day(statement.lines[0].day.0 - 1),
    ];
    for change in wrong {
        let mut statement = good.clone();
        change(&mut statement);
        let refused = process.send(world.envelope(close(account, &statement))).await.expect_err("wrong");
        assert_eq!(refused.code, Code::Invalid, "{statement:?}");
    }
    let stranger = AccountId::from_bytes([77; 16]);
    let refused = process.send(world.envelope(close(stranger, &good))).await.expect_err("nobody");
    assert_eq!(refused.code, Code::NotFound);
}

#[tokio::test]
async fn an_owner_closes_corrects_and_announces_nothing() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let statement = statement(START);
    let start = statement.start;
    world.pass(statement.end.after(CLOSE_AFTER).since(START));
    let corrected = StatementCorrected { start, correction: Correction::Credit, amount: MicroCents(1) };
    let noticed = UsageNoticed { start, percent: 50, used: StandardMillis(1), included: StandardMillis(1) };
    for command in [
        close(account, &statement),
        Command::CorrectStatement { account, corrected },
        Command::SendUsageNotice { account, noticed },
    ] {
        let mut envelope = world.envelope(command);
        envelope.actor = Actor::Account(account);
        assert_eq!(process.send(envelope).await.expect_err("not theirs").code, Code::NotFound);
    }
}

#[tokio::test]
async fn only_a_closed_month_is_corrected_and_a_retry_corrects_it_once() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let statement = statement(START);
    let corrected =
        StatementCorrected { start: statement.start, correction: Correction::Credit, amount: MicroCents(5) };
    let correct = || world.envelope(Command::CorrectStatement { account, corrected: corrected.clone() });
    assert_eq!(process.send(correct()).await.expect_err("not closed").code, Code::NotFound);
    world.pass(statement.end.after(CLOSE_AFTER).since(START));
    process.send(world.envelope(close(account, &statement))).await.expect("its time has come");
    let correction = correct();
    process.send(correction.clone()).await.expect("closed");
    let head = world.log.head(Log::Events).await.expect("memory");
    process.send(correction).await.expect("the same wish");
    assert_eq!(world.log.head(Log::Events).await.expect("memory"), head);
    process.send(correct()).await.expect("another wish is another correction");
    assert!(world.log.head(Log::Events).await.expect("memory") > head);
}

#[tokio::test]
async fn each_percentage_is_told_once_a_month_by_one_mail() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let included = plans().start().price_at(START).included;
    let tell = |percent: u8| {
        let start = Period::of(START, world.time()).start;
        let used = StandardMillis(included.0 * u64::from(percent) / 100);
        let noticed = UsageNoticed { start, percent, used, included };
        world.envelope(Command::SendUsageNotice { account, noticed })
    };
    let told = async |percent| match process.send(tell(percent)).await.expect("it follows").outcome {
        Outcome::UsageNoticed => true,
        Outcome::UsageAlreadyNoticed => false,
        other => panic!("{other:?}"),
    };
    assert!(told(50).await);
    assert!(!told(50).await, "once");
    assert!(told(100).await);
    assert!(!told(80).await, "all is more than 80 %");
    world.pass(Millis(31 * 24 * 3_600_000));
    assert!(told(50).await, "the next month");
    // The first one was the code.
    let mail = world.mailbox.mail(4).await;
    assert_eq!((mail.to.reveal(), world.mailbox.recipients().len()), ("a@example.org", 4));
    let Content::UsageNotice { percent, resets_on, .. } = mail.content else { panic!("no notice") };
    let end = Period::of(START, world.time()).end;
    assert_eq!((percent, resets_on), (50, Date::of(end).to_string()));
    assert_eq!(process.send(tell(51)).await.expect_err("no such step").code, Code::Invalid);
}

#[tokio::test]
async fn a_plan_changes_with_the_next_month_and_the_month_under_way_keeps_its_own() {
    let world = World::new().await;
    let process = world.process().await;
    let account = world.sign_in(&process, "a@example.org").await;
    let change = async |actor, plan: &str| {
        let command = Command::ChangePlan { account, plan: plan.to_owned() };
        process.send(Envelope { actor, ..world.envelope(command) }).await
    };
    let refused = change(Actor::Operator, "gold").await.expect_err("no such plan");
    assert!(refused.code == Code::Invalid && refused.message.contains("launch"), "{refused:?}");
    for actor in [Actor::Account(account), Actor::System(Role::Gateway)] {
        assert_eq!(change(actor, "launch").await.expect_err("no operator").code, Code::NotFound);
    }
    let next = Period::of(START, START).end;
    let reply = change(Actor::Operator, "launch").await.expect("there is one");
    assert!(matches!(reply.outcome, Outcome::PlanChanged { from } if from == next));
    let head = world.log.head(Log::Events).await.expect("memory");
    change(Actor::Operator, "launch").await.expect("it is so already");
    assert_eq!(world.log.head(Log::Events).await.expect("memory"), head);
    let plan_at = |at| {
        process.view(&world, move |directory| {
            directory.accounts.get(account).map(|known| known.plans.at(at).to_owned())
        })
    };
    assert_eq!(plan_at(START).await.as_deref(), Some("sandbox"));
    assert_eq!(plan_at(next).await.as_deref(), Some("launch"));
    // The month under way is closed on its own plan, after the next one has begun.
    let first = statement(START);
    world.pass(first.end.after(CLOSE_AFTER).since(START));
    process.send(world.envelope(close(account, &first))).await.expect("it is of the plan that it began on");
    let second = statement(next);
    world.pass(second.end.since(next));
    let refused = process.send(world.envelope(close(account, &second))).await.expect_err("of the old plan");
    assert_eq!(refused.code, Code::Invalid);
    // A month that has a price is closed before those after it.
    let [second, third] = [second.start, second.end].map(|start| statement_on("launch", start));
    world.pass(third.end.since(second.end));
    let refused = process.send(world.envelope(close(account, &third))).await.expect_err("it is not its turn");
    assert!(refused.code == Code::Invalid && refused.message.contains("in order"), "{refused:?}");
    for statement in [&second, &third] {
        process.send(world.envelope(close(account, statement))).await.expect("in order");
    }
}
