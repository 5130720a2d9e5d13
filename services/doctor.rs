//! `omnirun doctor`: tries what only a monitor and the template store can say, and prints it with what the host says itself.

use std::path::{Path, PathBuf};

use clap::Args;
use omnirun_ops::doctor::{self, Facts, Handed, Trouble};
use omnirun_vmm::probe::Verdict;
use omnirun_vmm::store::{StoreError, Template};

/// Options of `omnirun doctor`
#[derive(Debug, Args)]
pub struct Options {
    /// The template store that scripts/guest-image makes
    #[arg(long, env = "OMNIRUN_IMAGES", default_value = ".data/images")]
    images: PathBuf,
}

/// Prints what this host can do. Fails the shell's test where no sandbox can run.
pub fn run(options: &Options) -> std::process::ExitCode {
    let handed = Handed { kvm: kvm(), templates: templates(&options.images) };
    let findings = doctor::examine(&Facts::read(Path::new("/")), &handed);
    doctor::print(&findings, &mut std::io::stdout().lock()).code().into()
}

fn kvm() -> Result<String, Trouble> {
    let verdict = Verdict::of_this_host();
    match verdict.remedy() {
        None => Ok(verdict.to_string()),
        Some(remedy) => Err(Trouble { what: verdict.to_string(), remedy: remedy.to_owned() }),
    }
}

fn templates(images: &Path) -> Result<Vec<String>, Trouble> {
    let trouble = |what| Trouble { what, remedy: "make them with scripts/guest-image".to_owned() };
    let names = Template::list(images);
    if names.is_empty() {
        return Err(trouble(format!("{} holds no template", images.display())));
    }
    for name in &names {
        Template::open(images, name).map_err(|error| match error {
            StoreError::Missing { path, source } => {
                trouble(format!("cannot read {} ({source})", path.display()))
            }
            StoreError::BadName => trouble(format!("{name:?} is no template's name")),
        })?;
    }
    Ok(names)
}
