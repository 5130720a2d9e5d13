//! Nothing in an archive can be changed unseen.

use omnirun_commands_api::command::EXPORT_TYPE;
use omnirun_events::envelope::Role;
use omnirun_events::keys::Digest;
use omnirun_events::signing::Signer;
use omnirun_export::check::{CheckError, check};

use crate::world::*;

#[tokio::test]
async fn whatever_is_changed_is_found() {
    let (_directory, path) = archive().await;
    let good = files(&path);
    for (n, (name, _)) in good.iter().enumerate() {
        let mut changed = good.clone();
        let middle = changed[n].1.len() / 2;
        match changed[n].1.get_mut(middle) {
            Some(byte) => *byte ^= 1,
            None => changed[n].1.push(b'x'),
        }
        write(&path, &changed);
        assert!(check(&path, &root().public()).is_err(), "{name} was changed");
        let mut removed = good.clone();
        removed.remove(n);
        write(&path, &removed);
        assert!(check(&path, &root().public()).is_err(), "{name} was removed");
    }
    let mut more = good.clone();
    more.push(("more.txt".to_owned(), b"x".to_vec()));
    write(&path, &more);
    let added = check(&path, &root().public());
    assert!(matches!(added, Err(CheckError::Changed { file }) if file == "more.txt"));
    write(&path, &good);
    assert!(check(&path, &root().public()).is_ok());
    let stranger = Signer::from_seed(&[9; 32], Role::Root).public();
    assert!(check(&path, &stranger).is_err(), "another root key did not sign this");
}

/// A file's time, or which program wrote it, may change: the files are the same to everybody who reads them.
#[tokio::test]
async fn a_byte_that_is_changed_is_found_or_changes_no_file() {
    let (_directory, path) = archive().await;
    let (good, bytes) = (files(&path), std::fs::read(&path).expect("ours"));
    let mut unseen = 0;
    for n in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[n] ^= 1;
        std::fs::write(&path, &changed).expect("room");
        if check(&path, &root().public()).is_ok() {
            assert_eq!(files(&path), good, "byte {n} of {}", bytes.len());
            unseen += 1;
        }
    }
    let headers = good.len() * (30 + 46);
    assert!(unseen < headers, "{unseen} of {} bytes, of which {headers} are headers", bytes.len());
}

#[tokio::test]
async fn whatever_stands_beside_the_files_is_found() {
    let (_directory, path) = archive().await;
    let bytes = std::fs::read(&path).expect("ours");
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("room");
        check(&path, &root().public()).expect_err("it was added").to_string()
    };
    assert!(refused(&[b"before", bytes.as_slice()].concat()).contains("the directory"));
    assert!(refused(&[bytes.as_slice(), b"after"].concat()).contains("after its directory"));
    // The last two bytes are the length of a comment.
    let mut commented = bytes.clone();
    let end = commented.len() - 2;
    commented[end] = 5;
    commented.extend_from_slice(b"after");
    assert!(refused(&commented).contains("after its directory"));
    assert!(refused(b"").contains("cut short") && refused(b"PK").contains("cut short"));
}

/// Some programs would show the first of them, others the last.
#[tokio::test]
async fn two_files_of_one_name_are_found() {
    let (_directory, path) = archive().await;
    let mut files = files(&path);
    let (_, account) = files.iter().find(|(name, _)| name == "account.json").expect("it is there");
    let forged = String::from_utf8_lossy(account).replace("someone", "another").into_bytes();
    // As long as the other name, for which it is taken afterwards.
    files.insert(0, ("account.jso_".to_owned(), forged));
    write(&path, &files);
    let mut bytes = std::fs::read(&path).expect("ours");
    let places: Vec<_> = bytes.windows(12).enumerate().filter(|(_, name)| name == b"account.jso_").collect();
    let places: Vec<usize> = places.into_iter().map(|(place, _)| place).collect();
    assert_eq!(places.len(), 2, "before the file and in the directory");
    places.iter().for_each(|place| bytes[place + 11] = b'n');
    std::fs::write(&path, &bytes).expect("room");
    let error = check(&path, &root().public()).expect_err("a second account.json");
    assert!(matches!(error, CheckError::Archive { .. }), "{error}");
    // In the headers alone it is a second one for who does not look at the directory.
    bytes[places[1] + 11] = b'_';
    std::fs::write(&path, &bytes).expect("room");
    assert!(check(&path, &root().public()).is_err());
}

#[tokio::test]
async fn a_record_that_is_left_out_is_found_even_by_who_signs_the_manifest() {
    let (_directory, path) = archive().await;
    let mut files = files(&path);
    let place = files.iter().position(|(name, _)| name == "keys.jsonl").expect("it is there");
    files[place].1.clear();
    let mut manifest = json(&files, "manifest.json");
    for file in manifest["files"].as_array_mut().expect("a list") {
        if file["name"] == "keys.jsonl" {
            file["bytes"] = 0.into();
            file["sha256"] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".into();
        }
    }
    let manifest = serde_json::to_vec(&manifest).expect("JSON");
    let digest = Digest(sha2_of(&manifest));
    let signature = commands().sign_as(EXPORT_TYPE, &[ACCOUNT.as_bytes(), &digest.0]);
    let signature = serde_json::json!({
        "key": commands().id().to_string(), "signature": data_encoding::HEXLOWER.encode(&signature),
    });
    for (name, bytes) in &mut files {
        match name.as_str() {
            "manifest.json" => *bytes = manifest.clone(),
            "manifest.sig.json" => *bytes = signature.to_string().into_bytes(),
            _ => {}
        }
    }
    write(&path, &files);
    assert!(matches!(check(&path, &root().public()), Err(CheckError::Fault(_))));
}

fn sha2_of(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).into()
}
