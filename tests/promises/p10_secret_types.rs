//! P10, at compile time: what holds a secret cannot be put into a text. A type in this list that learns `Display` no longer compiles.

use std::fmt::Display;

use omnirun_commands::MasterKey;
use omnirun_commands_api::command::{ClientNetwork, NewCredential, Personal};
use omnirun_commands_api::mail::{Mail, OneTimeCode};
use omnirun_events::auth::CodeProof;
use omnirun_events::sealing::{DataKey, Sealed};
use omnirun_events::signing::Signer;
use omnirun_events::token::TokenVerifier;
use omnirun_gateway::ShownMail;
use omnirun_gateway::token::TokenText;
use omnirun_mailer::SentMail;
use omnirun_ops::identity::GatewaySecret;

/// Two ways to the same function for what can be displayed, so that the compiler cannot choose; one for everything else.
trait Named<Way> {
    fn only_one_way() {}
}

struct Displayed;

impl<T: ?Sized> Named<()> for T {}
impl<T: ?Sized + Display> Named<Displayed> for T {}

macro_rules! cannot_be_displayed {
    ($($secret:ty),+ $(,)?) => {
        $(const _: fn() = <$secret as Named<_>>::only_one_way;)+
    };
}

cannot_be_displayed!(
    ClientNetwork,
    CodeProof,
    DataKey,
    GatewaySecret,
    Mail,
    MasterKey,
    NewCredential,
    OneTimeCode,
    Personal,
    Sealed,
    SentMail,
    ShownMail,
    Signer,
    TokenText,
    TokenVerifier,
);
