//! What `omnirun up` prints when it is healthy: where it is and how to sign in.

use std::net::SocketAddr;
use std::path::Path;

use super::mail::Seen;

/// Prints it. The first line is what scripts wait for.
pub fn say(address: SocketAddr, data: &Path, mail: Seen) {
    println!("OmniRun is up: http://{address}");
    println!();
    println!("Ask for a sign-in code:");
    println!(
        "  curl -s http://{address}/auth/magic-link/request -H 'content-type: application/json' -d '{{\"email\":\"you@example.org\"}}'"
    );
    match mail {
        Seen::Terminal => println!("The mail is shown here, and at http://{address}/dev/mailbox."),
        Seen::Mailbox => println!("The mail is at http://{address}/dev/mailbox, for this machine alone."),
        Seen::Sent => {}
    }
    println!("Exchange the code of the mail for a token:");
    println!(
        "  curl -s http://{address}/auth/otp/verify -H 'content-type: application/json' -d '{{\"email\":\"you@example.org\",\"code\":\"CODE\"}}'"
    );
    println!("Then a sandbox:");
    println!(
        "  curl -s http://{address}/sandboxes -H 'x-api-key: TOKEN' -H 'content-type: application/json' -d '{{\"template\":\"python-3.11\"}}'"
    );
    println!();
    // As it was called, for it is rarely on the PATH of who tries it.
    let program = std::env::args_os().next().unwrap_or_else(|| "omnirun".into());
    println!("What happens: {} ops --data {} tail --follow", program.display(), data.display());
    println!("Ctrl-C stops it; sandboxes live on for ten minutes, and are taken over by a start until then.");
}
