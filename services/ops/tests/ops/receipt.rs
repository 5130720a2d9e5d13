//! What the operator's commands say of a receipt that somebody was mailed.

use omnirun_commands_api::command::RECEIPT_TYPE;
use omnirun_events::envelope::Role;
use omnirun_events::erasure::{Cause, ErasureFinished, RecordsErased, Span};
use omnirun_events::id::ReceiptId;
use omnirun_events::keys::{Digest, MasterKeyRotated};
use omnirun_events::log::{Read as _, Sequence};
use omnirun_events::subject::{Log, SubjectKind};
use omnirun_ops::Exit;

use crate::world::*;

fn receipt() -> ReceiptId {
    ReceiptId::from_bytes([5; 16])
}

/// The receipt's mail, as the commands key signs it: words around it, lines that end as in a mail.
fn mail(world: &World) -> String {
    let keys = world.identity();
    let (receipt, key) = (receipt(), keys.commands.public());
    let document =
        format!("{{\n  \"receipt\": \"{receipt}\",\n  \"records\": 3,\n  \"signed_by\":\n    \"{key}\"\n}}");
    let signature = keys.commands.sign_as(RECEIPT_TYPE, &[document.as_bytes()]);
    let [first, second] = [&signature[..32], &signature[32..]]
        .map(|half| Digest(half.try_into().expect("half of 64 bytes")).to_string());
    format!("Subject: x\n\nKeep it.\n\n{document}\n\nSignature (Ed25519, DSSE type {RECEIPT_TYPE}):\n{first}\n{second}\n\nBye\n")
        .replace('\n', "\r\n")
}

async fn verify(world: &World, mail: &str) -> (Exit, String, String) {
    let path = world.data().join("receipt.txt");
    std::fs::write(&path, mail).expect("the directory is ours");
    let root = world.identity().root.to_string();
    world.ops(&["verify", "--root-key", &root, "--receipt", &path.to_string_lossy()]).await
}

async fn say(world: &World, event: omnirun_events::Event) {
    world.append_as(Role::Commands, SubjectKind::Erasure, vec![event]).await;
}

#[tokio::test]
async fn a_receipt_is_good_once_the_log_says_that_its_erasure_was_finished() {
    let world = World::with_history().await;
    let mail = mail(&world);
    let (exit, out, _) = verify(&world, &mail).await;
    assert!(exit == Exit::Bad && out.contains("does not say that this erasure was finished"), "{out}");

    let positions = vec![Span(Sequence(2), 3)];
    let cause = Cause::Account { receipt: receipt() };
    let before = world.log.head(Log::Events).await.expect("memory");
    say(&world, RecordsErased { cause, log: Log::Events, positions, starts: vec![] }.into()).await;
    say(&world, ErasureFinished { receipt: receipt() }.into()).await;
    let (exit, out, _) = verify(&world, &mail).await;
    assert!(exit == Exit::Good && out.contains("tombstones: 3 records\n"), "{out}");
    assert!(out.contains("final once the master key is replaced"), "{out}");

    // An epoch that began before the last tombstone may have wrapped what was destroyed.
    let after = world.log.head(Log::Events).await.expect("memory");
    say(&world, MasterKeyRotated { epoch: 2, final_through: before }.into()).await;
    let (exit, out, _) = verify(&world, &mail).await;
    assert!(exit == Exit::Good && out.contains("final once the master key is replaced"), "{out}");
    say(&world, MasterKeyRotated { epoch: 3, final_through: after }.into()).await;
    let (exit, out, _) = verify(&world, &mail).await;
    assert!(exit == Exit::Good && out.contains("final since the master key's epoch 3"), "{out}");
}

#[tokio::test]
async fn a_receipt_that_was_changed_or_that_another_key_signed_is_bad() {
    let world = World::with_history().await;
    let genuine = mail(&world);
    let (exit, out, _) = verify(&world, &genuine.replace("\"records\": 3", "\"records\": 4")).await;
    assert!(exit == Exit::Bad && out.contains("its text is not what was signed"), "{out}");
    let (exit, out, _) = verify(&World::with_history().await, &genuine).await;
    assert!(exit == Exit::Bad && out.contains("was never a commands key of this installation"), "{out}");
}

#[tokio::test]
async fn what_is_no_receipt_is_named() {
    let world = World::with_history().await;
    for (text, why) in [
        ("", "no line is a single {"),
        ("{\n", "no line is a single }"),
        ("{\n  \"receipt\": 1\n}\n", "no receipt"),
    ] {
        let (exit, _, errors) = verify(&world, text).await;
        assert!(exit == Exit::Failed && errors.contains(why), "{errors}");
    }
    let cut = mail(&world).lines().take(12).collect::<Vec<_>>().join("\n");
    let (exit, _, errors) = verify(&world, &cut).await;
    assert!(exit == Exit::Failed && errors.contains("signature"), "{errors}");
}
