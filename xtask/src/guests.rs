//! Which guests a run has, and the hypervisor's command line for them.

use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};
use boot_config::Config;

use crate::archive::Guest;

/// What the names of guests begin with that take no part where all bundled guests run side by side: those that attack take a second or so each and
/// have a test of their own, those that measure would only measure their neighbours there, to those whose memory comes at a touch (`auto-`) a lack of it is a fault,
/// `squeeze` wants a host with just so much memory, and those that touch what they must not run side by side in `named-faults` (all names of the rest
/// have to fit into a command line).
const ALONE: [&str; 5] = ["attack-", "auto-", "bench-", "squeeze", "touch-"];

/// The bundled guests of the main job.
pub fn of_the_main_job(bundled: &[Guest]) -> impl Iterator<Item = &Guest> {
    let alone = |guest: &Guest| ALONE.iter().any(|start| guest.name.starts_with(start));
    bundled.iter().filter(move |guest| !alone(guest))
}

/// Picks the bundled guests named in `names` (those of the main job when there are neither names nor guests of the user's own), then
/// the user's own.
///
/// # Errors
/// A name that is not bundled, a file that can't be read, fields that are wrong.
pub fn choose(bundled: &[Guest], names: &[String], own: &[String]) -> Result<Vec<Guest>> {
    let mut chosen = Vec::new();
    if names.is_empty() && own.is_empty() {
        chosen.extend(of_the_main_job(bundled).cloned());
        // Those that wait for all others come last, so that as many as possible live side by side.
        chosen.sort_by_key(|guest| guest.launch.after);
    }
    for name in names {
        chosen.push(find(bundled, name)?.clone());
    }
    for text in own {
        let mut guest = own_guest(text)?;
        let mut count = 1;
        let name = guest.name.clone();
        while chosen.iter().any(|other| other.name == guest.name) {
            count += 1;
            guest.name = format!("{name}-{count}");
        }
        chosen.push(guest);
    }
    Ok(chosen)
}

/// The bundled guest of this name.
///
/// # Errors
/// There is none; the text names the nearest.
pub fn find<'g>(bundled: &'g [Guest], name: &str) -> Result<&'g Guest> {
    bundled.iter().find(|guest| guest.name == name).ok_or_else(|| {
        let names: Vec<_> = bundled.iter().map(|guest| guest.name.as_str()).collect();
        match boot_config::nearest(name, &names) {
            Some(near) => anyhow!("no bundled guest is called `{name}`; did you mean `{near}`?"),
            None => anyhow!(
                "no bundled guest is called `{name}`; there are {}",
                names.join(", ")
            ),
        }
    })
}

/// Reads `FILE[,FIELD...]`; the fields go over what the file's own launch text says.
///
/// # Errors
/// A file that can't be read, fields that are wrong.
pub fn own_guest(text: &str) -> Result<Guest> {
    let (file, fields) = text.split_once(',').unwrap_or((text, ""));
    let mut guest = Guest::open(PathBuf::from(file))?;
    guest.launch = guest
        .launch
        .parse_over(fields)
        .map_err(|error| anyhow!("{text}: {error} (counted after the first comma)"))?;
    Ok(guest)
}

/// The hypervisor's command line: the guests, the seed, and what the user appends.
///
/// # Errors
/// The line is too long, or the hypervisor would not accept it.
pub fn command_line(guests: &[Guest], seed: u64, appended: &str) -> Result<String> {
    // On its own first: the position in the error is then one that the user can count.
    Config::parse(appended).map_err(|error| anyhow!("--cmdline '{appended}': {error}"))?;
    let mut words: Vec<String> = guests
        .iter()
        .map(|guest| format!("guest={}", guest.spec()))
        .collect();
    words.push(format!("seed={seed:#x}"));
    words.extend(appended.split_whitespace().map(str::to_owned));
    let line = words.join(" ");
    if let Err(error) = Config::parse(&line) {
        if line.len() > boot_config::MAX_COMMAND_LINE {
            bail!("{error}; name fewer guests with --guests");
        }
        bail!("the hypervisor would not accept its command line `{line}`\n{error}");
    }
    Ok(line)
}

/// A seed that differs from run to run.
pub fn random_seed() -> u64 {
    // The standard library keys each of its hash tables from the system's random numbers.
    std::hash::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use boot_config::Launch;

    use super::*;

    fn guest(name: &str, fields: &str) -> Guest {
        let launch = Launch::default().parse_over(fields).unwrap();
        Guest {
            name: name.into(),
            path: name.into(),
            launch,
        }
    }

    #[test]
    fn names_and_files() {
        let bundled = [
            guest("attack-msrs", ""),
            guest("bench-conversions", ""),
            guest("hello", ""),
            guest("spin", "expect=time-limit"),
        ];
        let names = |guests: Vec<Guest>| guests.into_iter().map(|guest| guest.name).collect::<Vec<_>>();
        assert_eq!(names(choose(&bundled, &[], &[]).unwrap()), ["hello", "spin"]);
        assert_eq!(names(choose(&bundled, &["spin".into()], &[]).unwrap()), ["spin"]);
        let attack = choose(&bundled, &["attack-msrs".into()], &[]).unwrap();
        assert_eq!(names(attack), ["attack-msrs"]);
        let me = std::env::current_exe().unwrap().display().to_string();
        let own = [format!("{me},memory=8M,count=2"), me.clone()];
        let chosen = choose(&bundled, &[], &own).unwrap();
        assert_eq!(
            (chosen.len(), chosen[0].launch.count, chosen[1].launch.count),
            (2, 2, 1)
        );
        assert_eq!(chosen[1].name, format!("{}-2", chosen[0].name));
        let error = choose(&bundled, &["spni".into()], &[]).unwrap_err().to_string();
        assert_eq!(error, "no bundled guest is called `spni`; did you mean `spin`?");
        let error = choose(&bundled, &[], &[format!("{me},memroy=4M")])
            .unwrap_err()
            .to_string();
        assert!(error.contains("did you mean `memory`?"), "{error}");
    }

    #[test]
    fn the_line_is_what_the_hypervisor_reads() {
        let guests = [
            guest("hello", "memory=4M"),
            guest("spin", "limit=200ms,expect=time-limit"),
        ];
        let line = command_line(&guests, 255, " seed=7  together=2 ").unwrap();
        assert_eq!(
            line,
            "guest=hello,memory=4M guest=spin,limit=200ms,expect=time-limit seed=0xff seed=7 together=2"
        );
        assert_eq!(Config::parse(&line).unwrap().seed, 7);
        let error = command_line(&guests, 1, "sead=7").unwrap_err().to_string();
        assert_eq!(
            error,
            "--cmdline 'sead=7': parameter `sead`, byte 0: `sead` is not known; did you mean `seed`?"
        );
        let many = vec![guest(&"x".repeat(60), "limit=1s"); 30];
        let error = format!("{:#}", command_line(&many, 1, "").unwrap_err());
        assert!(error.ends_with("name fewer guests with --guests"), "{error}");
    }

    #[test]
    fn seeds_differ() {
        assert_ne!(random_seed(), random_seed());
    }
}
