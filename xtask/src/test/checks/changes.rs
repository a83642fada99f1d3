//! Guests changed their memory.

use report::Event;

use crate::emulator::Record;
use crate::report::Report;

use super::{Held, must};

/// Calls of `share-and-take-back` that make something absent: to share and to take back, for each of its nine ranges and for what it prints.
const CHANGES: u64 = 2 * (9 + 1);

/// Calls of `share-in-place` that make something absent: to share and to take back, for each of its six ranges, and five for what it prints.
const CHANGES_IN_PLACE: u64 = 2 * 6 + 5;

/// After a run of `share-in-place`: no ordinary frame but the one for the page that it also shares otherwise, and nothing scrubbed for the rest.
pub fn shared_in_place(record: &Record) -> Held {
    let counters = record.report.counters().ok_or("the report has no `counters`")?;
    let (there, back) = (counters.pages_shared_in_place, counters.pages_unshared_in_place);
    must(there > 512 && there == back, || {
        format!("{there} pages were shared in place, {back} came back")
    })?;
    must(counters.pages_shared == 1, || {
        format!("{} pages got an ordinary frame", counters.pages_shared)
    })?;
    must(counters.guest_flushes == CHANGES_IN_PLACE, || {
        format!(
            "{} flushes of the guest, should be {CHANGES_IN_PLACE}",
            counters.guest_flushes
        )
    })?;
    let (split, whole) = (counters.second_stage_splits, counters.second_stage_collapses);
    let stays = counters.promotions_blocked_executable > 0;
    must(split > 0 && (stays || split == whole), || {
        format!("{split} 2M leaves of the guest were split, {whole} came back")
    })?;
    must(!record.text.contains("this is private again"), || {
        "text of a private page was printed".to_owned()
    })
}

/// After a run of `share-and-take-back`.
pub fn shared_and_back(record: &Record) -> Held {
    let counters = record.report.counters().ok_or("the report has no `counters`")?;
    let pages = [
        counters.pages_shared,
        counters.pages_unshared,
        counters.pages_accepted,
    ];
    must(pages[0] > 0 && pages == [pages[0]; 3], || {
        format!("pages shared, private again, accepted: {pages:?}")
    })?;
    must(counters.guest_flushes == CHANGES, || {
        format!(
            "{} flushes of the guest, should be {CHANGES}",
            counters.guest_flushes
        )
    })?;
    let (split, back) = (counters.second_stage_splits, counters.second_stage_collapses);
    // Where code must not run from large leaves, those stay split.
    let stays = counters.promotions_blocked_executable > 0;
    must(split > 0 && (stays || split == back), || {
        format!("{split} 2M leaves of the guest were split, {back} came back")
    })?;
    must(!record.text.contains("this was private"), || {
        "text of a private page was printed".to_owned()
    })
}

/// MiB in large leaves, and MiB of memory, of the three instances of `conversion-storm`: that which ended before the storm, in the middle of it, and after it.
///
/// # Errors
/// There is one more or less of them.
pub fn storm(report: &Report) -> Result<[(u64, u64); 3], String> {
    const NAME: &str = "conversion-storm";
    let found = [0, 1, 2].map(|moment| {
        let says = report.events.iter().find_map(|event| match event {
            Event::ReportValue(value)
                if value.guest == NAME && value.name == "moment" && value.value == moment =>
            {
                Some(value.instance)
            }
            _ => None,
        })?;
        let guest = report
            .guests()
            .find(|guest| guest.name == NAME && guest.instance == says)?;
        Some((guest.large_leaves_mib, guest.memory_mib))
    });
    match found {
        [Some(before), Some(during), Some(after)] => Ok([before, during, after]),
        _ => Err(format!(
            "of the moments of the storm, MiB in large leaves: {found:?}"
        )),
    }
}

/// After a run of `conversion-storm`: large leaves before it and after it, and few in the middle.
pub fn conversion_storm(record: &Record) -> Held {
    let counters = record.report.counters().ok_or("the report has no `counters`")?;
    let [(before, all), (during, _), (after, _)] = storm(&record.report)?;
    // Where code must not run from large leaves, those stay split.
    let stays = counters.promotions_blocked_executable > 0;
    must(
        (before == all || stays) && during < before && (after == before || stays),
        || format!("MiB in large leaves before, during, after: {before}, {during}, {after} of {all}"),
    )
}

/// At most one flush for 512 conversions, the guests' and the host's: of the latter a launch has one, and so may a teardown.
pub fn few_flushes(record: &Record) -> Held {
    let counters = record.report.counters().ok_or("the report has no `counters`")?;
    let pages = counters.pages_shared + counters.pages_unshared;
    let flushes = counters.guest_flushes;
    must(flushes > 0 && flushes * 512 <= pages, || {
        format!("{flushes} flushes of guests for {pages} conversions")
    })?;
    let guests = record.report.guests().count() as u64;
    must(counters.flushes <= 2 * guests, || {
        format!("{} flushes of the host for {guests} guests", counters.flushes)
    })
}

/// Memory was low: what was kept for a guest's pages was taken, other frames came for them, and that is why a large leaf is missing. Still at most one
/// flush for 512 conversions, the guests' and the host's.
pub fn squeezed(record: &Record) -> Held {
    let counters = record.report.counters().ok_or("the report has no `counters`")?;
    let (taken, supplied) = (counters.kept_frames_taken, counters.frames_supplied);
    // Every other page of two regions, one by one, and the regions behind them.
    must(supplied == 512 && taken > 512 + 8 * 512, || {
        format!("{taken} frames taken, and {supplied} supplied")
    })?;
    // Where code must not run from large leaves, that is the first reason.
    let blocked = counters.promotions_blocked_address + counters.promotions_blocked_executable;
    must(blocked > 0, || {
        "frames of others are mapped by one leaf".to_owned()
    })?;
    let pages = counters.pages_shared + counters.pages_unshared;
    must(counters.flushes * 512 <= pages, || {
        format!("{} flushes of the host for {pages} conversions", counters.flushes)
    })
}
