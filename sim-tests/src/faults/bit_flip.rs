//! A power cut, then some bits of the log or of a snapshot are other ones: on one machine, and never where a majority
//! would lose something by it. The node must refuse to start, or not have needed those bits.

use super::{Crash, Field, Undo};
use crate::disk::MemDisk;
use rand::{RngExt, rngs::SmallRng};

pub(super) fn begin(field: &mut Field<'_, '_>, dice: &mut SmallRng) -> Option<Undo> {
    let victim = field.victim(dice);
    if !field.cluster.may_damage(victim) {
        return None;
    }
    let undo = field.crash(victim, dice, Crash::Power)?;
    let mut body = field.cluster.machines[victim].body();
    body.damaged = true;
    let told = flip(&body.disk, dice);
    drop(body);
    field.tell(&format!("flip bits of {}: {told}", field.name(victim)));
    Some(undo)
}

fn flip(disk: &MemDisk, dice: &mut SmallRng) -> String {
    let names = disk.names();
    let files = names.into_iter().filter(|path| !disk.content(path).is_empty());
    let files: Vec<_> = files.collect();
    if files.is_empty() {
        return "there is nothing".to_owned();
    }
    let path = &files[dice.random_range(0..files.len())];
    let mut content = disk.content(path);
    let count = dice.random_range(1..20);
    for _ in 0..count {
        let bit = dice.random_range(0..content.len() * 8);
        content[bit / 8] ^= 1 << (bit % 8);
    }
    disk.set_content(path, content);
    format!("{count} of {}", path.display())
}
