//! What became of a run: the last line of the text, the emulator's status, and what was in the way.

use std::fmt;
use std::time::Duration;

use report::Event;

use crate::report::Report;

/// How a run ended. Only [`Outcome::Pass`] is success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Everything held.
    Pass,
    /// Something did not hold; the hypervisor says what.
    Fail(String),
    /// The hypervisor met a broken invariant of its own.
    Panic(String),
    /// The hypervisor did not start its work: bad configuration or an unsupported machine.
    Refused(String),
    /// The emulator ended and there is no verdict that can be believed.
    NoVerdict(String),
    /// No verdict came within this time.
    TimeLimit(Duration),
    /// Ctrl-C.
    Interrupted,
}

/// Values that the hypervisor writes to the exit port, as the emulator's status: twice the value, plus one.
const PASS: i32 = 33;
const FAIL: i32 = 35;
const PANIC: i32 = 37;
const REFUSED: i32 = 39;

impl Outcome {
    /// Judges an emulator that ended by itself with `status` (`None`: ended by a signal) after writing `text`.
    ///
    /// The verdict must be the last line, and the status must say the same: a guest that prints a verdict, or a
    /// hypervisor that exits in the middle of a line, is not believed.
    pub fn judge(text: &str, status: Option<i32>) -> Self {
        Self::judge_by(text, status, |word| match word {
            "PASS" => Some(PASS),
            "FAIL" => Some(FAIL),
            "PANIC" => Some(PANIC),
            "REFUSED" => Some(REFUSED),
            _ => None,
        })
    }

    /// Judges Bochs, which has one status for every regular end: 0 after a debugger break. A triple fault and a panic of the
    /// emulator end with 1.
    pub fn judge_bochs(text: &str, status: Option<i32>) -> Self {
        Self::judge_by(text, status, |_| Some(0))
    }

    /// `wanted` is the status that goes with a verdict's word.
    fn judge_by(text: &str, status: Option<i32>, wanted: impl Fn(&str) -> Option<i32>) -> Self {
        let last = text
            .lines()
            .rev()
            .map(str::trim)
            .find(|line| !line.is_empty())
            .unwrap_or_default();
        let Some(verdict) = last.strip_prefix("VERDICT: ") else {
            return Self::NoVerdict(match status {
                Some(0) if wanted("PASS") != Some(0) => {
                    "the machine was reset before a verdict (a triple fault of the hypervisor?)".into()
                }
                Some(status) => format!("the emulator ended with status {status} before a verdict"),
                None => "the emulator was ended by a signal before a verdict".into(),
            });
        };
        let (word, reason) = verdict.split_once(' ').unwrap_or((verdict, ""));
        let reason = reason.trim().to_owned();
        let Some(status) = status else {
            return Self::NoVerdict(format!("the emulator was ended by a signal after `{last}`"));
        };
        let agrees = wanted(word) == Some(status);
        match word {
            "PASS" if agrees => Self::Pass,
            "FAIL" if agrees => Self::Fail(reason),
            "PANIC" if agrees => Self::Panic(reason),
            "REFUSED" if agrees => Self::Refused(reason),
            _ => Self::NoVerdict(format!(
                "the text ends with `{last}`, but the emulator's status is {status}"
            )),
        }
    }

    /// Takes a pass back unless the report, too, ends with one.
    pub fn confirmed(self, report: &Report) -> Self {
        match (self, report.events.last()) {
            (Self::Pass, Some(Event::Verdict(verdict))) if verdict.verdict == report::Outcome::Pass => {
                Self::Pass
            }
            (Self::Pass, _) => {
                Self::NoVerdict("the text says PASS, but the report does not end with it".into())
            }
            (other, _) => other,
        }
    }

    /// The word for it in output and in tests.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail(_) => "FAIL",
            Self::Panic(_) => "PANIC",
            Self::Refused(_) => "REFUSED",
            Self::NoVerdict(_) => "NO VERDICT",
            Self::TimeLimit(_) => "TIME LIMIT",
            Self::Interrupted => "INTERRUPTED",
        }
    }

    /// Why; empty for a pass.
    pub fn reason(&self) -> String {
        match self {
            Self::Pass => String::new(),
            Self::Fail(reason) | Self::Panic(reason) | Self::Refused(reason) | Self::NoVerdict(reason) => {
                reason.clone()
            }
            Self::TimeLimit(limit) => format!("no verdict within {}", humantime::format_duration(*limit)),
            Self::Interrupted => "stopped by a signal".into(),
        }
    }

    /// The status that this program exits with. 2 is clap's for a wrong command line.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Fail(_) => 1,
            Self::Refused(_) => 3,
            Self::Panic(_) => 4,
            Self::TimeLimit(_) => 5,
            Self::NoVerdict(_) => 6,
            Self::Interrupted => 130,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason() {
            reason if reason.is_empty() => f.write_str(self.word()),
            reason => write!(f, "{}: {reason}", self.word()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_status_must_agree() {
        let text = "hello\r\nVERDICT: PASS\r\n";
        assert_eq!(Outcome::judge(text, Some(33)), Outcome::Pass);
        assert_eq!(
            Outcome::judge(text, Some(35)),
            Outcome::NoVerdict("the text ends with `VERDICT: PASS`, but the emulator's status is 35".into())
        );
        assert!(matches!(Outcome::judge(text, None), Outcome::NoVerdict(_)));
        assert!(matches!(Outcome::judge(text, Some(0)), Outcome::NoVerdict(_)));
    }

    #[test]
    fn bochs_ends_with_0_after_a_verdict_and_only_then() {
        assert_eq!(Outcome::judge_bochs("VERDICT: PASS", Some(0)), Outcome::Pass);
        let refused = Outcome::Refused("no VMX".into());
        assert_eq!(Outcome::judge_bochs("VERDICT: REFUSED no VMX", Some(0)), refused);
        for (text, status) in [
            ("hello", Some(0)),
            ("VERDICT: MAYBE", Some(0)),
            ("VERDICT: PASS", Some(1)),
            ("VERDICT: PASS", Some(33)),
            ("VERDICT: PASS", None),
        ] {
            let outcome = Outcome::judge_bochs(text, status);
            assert!(
                matches!(outcome, Outcome::NoVerdict(_)),
                "{text} {status:?} {outcome}"
            );
        }
    }

    #[test]
    fn each_verdict_has_its_reason() {
        assert_eq!(
            Outcome::judge("VERDICT: FAIL guest 3", Some(35)),
            Outcome::Fail("guest 3".into())
        );
        assert_eq!(
            Outcome::judge("VERDICT: PANIC oh", Some(37)),
            Outcome::Panic("oh".into())
        );
        assert_eq!(
            Outcome::judge("VERDICT: REFUSED no SVM", Some(39)),
            Outcome::Refused("no SVM".into())
        );
    }

    #[test]
    fn only_the_last_line_counts() {
        for text in [
            "VERDICT: PASS\nmore",
            "guest: VERDICT: PASS",
            "VERDICT: PASSED",
            "VERDICT:PASS",
            "",
        ] {
            assert!(
                matches!(Outcome::judge(text, Some(33)), Outcome::NoVerdict(_)),
                "{text}"
            );
        }
        let reset = Outcome::judge("guest 1: hello", Some(0));
        assert!(reset.reason().contains("reset"), "{reset}");
    }

    #[test]
    fn a_pass_is_confirmed_by_the_report() {
        let report = |word: &str| {
            Report::parse(format!(r#"{{"event":"verdict","verdict":"{word}","reason":""}}"#).as_bytes())
        };
        assert_eq!(Outcome::Pass.confirmed(&report("pass")), Outcome::Pass);
        assert!(matches!(
            Outcome::Pass.confirmed(&report("fail")),
            Outcome::NoVerdict(_)
        ));
        assert!(matches!(
            Outcome::Pass.confirmed(&Report::default()),
            Outcome::NoVerdict(_)
        ));
        assert_eq!(
            Outcome::Interrupted.confirmed(&report("pass")),
            Outcome::Interrupted
        );
    }

    #[test]
    fn every_failure_has_a_status_of_its_own() {
        let text = String::new;
        let outcomes = [
            Outcome::Pass,
            Outcome::Fail(text()),
            Outcome::Refused(text()),
            Outcome::Panic(text()),
            Outcome::TimeLimit(Duration::from_secs(1)),
            Outcome::NoVerdict(text()),
            Outcome::Interrupted,
        ];
        let mut codes: Vec<_> = outcomes.iter().map(Outcome::exit_code).collect();
        codes.push(2);
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), outcomes.len() + 1);
    }
}
