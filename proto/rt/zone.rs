//! What a file of a timezone says (tzfile(5), RFC 9636): how far local time is from UTC. Leap seconds are not
//! counted, as in the zones that systems run on.

use super::civil::Civil;

/// Seconds that local time is ahead of UTC at a time; `None`: the file is none of a timezone.
pub fn offset(file: &[u8], at: i64) -> Option<i32> {
    // The first block has times of 32 bits, and is there for old readers only.
    let old = Header::parse(file)?;
    let (header, wide) = match file.get(4)? {
        0 => (old, 4),
        _ => {
            let rest = file.get(HEADER + old.length(4)?..)?;
            return later(rest, at);
        }
    };
    header.offset(file.get(HEADER..)?, wide, at)
}

/// Of a file of version 2 or newer, from its second header on.
fn later(file: &[u8], at: i64) -> Option<i32> {
    let header = Header::parse(file)?;
    let body = file.get(HEADER..)?;
    // What holds behind the last change in the table, as a line of text.
    let rule = body.get(header.length(8)?..)?;
    let rule = rule
        .strip_prefix(b"\n")?
        .split(|byte| *byte == b'\n')
        .next()?;
    let last = header.times.checked_sub(1);
    let last = last.and_then(|last| time(body, 8, last));
    if last.is_none_or(|last| at >= last)
        && let Some(offset) = str::from_utf8(rule).ok().and_then(|rule| of_rule(rule, at))
    {
        return Some(offset);
    }
    header.offset(body, 8, at)
}

const HEADER: usize = 44;

/// How many there are of what.
struct Header {
    times: usize,
    kinds: usize,
    /// Bytes of what stands behind times and kinds.
    rest: usize,
    leaps: usize,
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.get(..4)? != b"TZif" {
            return None;
        }
        let count = |at: usize| {
            let count = bytes.get(20 + 4 * at..)?.first_chunk()?;
            usize::try_from(u32::from_be_bytes(*count)).ok()
        };
        Some(Self {
            times: count(3)?,
            kinds: count(4)?,
            rest: count(5)?.checked_add(count(0)?)?.checked_add(count(1)?)?,
            leaps: count(2)?,
        })
    }

    /// Of the data behind the header, with times of so many bytes.
    fn length(&self, wide: usize) -> Option<usize> {
        let times = self.times.checked_mul(wide + 1)?;
        let kinds = self.kinds.checked_mul(KIND)?;
        let leaps = self.leaps.checked_mul(wide + 4)?;
        times
            .checked_add(kinds)?
            .checked_add(self.rest)?
            .checked_add(leaps)
    }

    fn offset(&self, body: &[u8], wide: usize, at: i64) -> Option<i32> {
        let mut kind = 0;
        for n in 0..self.times {
            if time(body, wide, n)? > at {
                break;
            }
            kind = *body.get(self.times * wide + n)?;
        }
        let kinds = self.times * (wide + 1);
        let offset = body
            .get(kinds + usize::from(kind) * KIND..)?
            .first_chunk()?;
        (usize::from(kind) < self.kinds).then_some(i32::from_be_bytes(*offset))
    }
}

/// An offset, whether it is summer time, where its name is.
const KIND: usize = 6;

fn time(body: &[u8], wide: usize, n: usize) -> Option<i64> {
    let bytes = body.get(n * wide..)?;
    match wide {
        4 => Some(i32::from_be_bytes(*bytes.first_chunk()?).into()),
        _ => Some(i64::from_be_bytes(*bytes.first_chunk()?)),
    }
}

/// `CET-1CEST,M3.5.0,M10.5.0/3`, as POSIX has it for TZ: hours behind UTC, and when summer time begins and ends.
fn of_rule(rule: &str, at: i64) -> Option<i32> {
    let (offset, rest) = name(rule).and_then(span)?;
    let standard = -offset;
    if rest.is_empty() {
        return Some(standard);
    }
    let rest = name(rest)?;
    let (summer, rest) = match rest.starts_with(',') {
        true => (standard + 3600, rest),
        false => span(rest).map(|(offset, rest)| (-offset, rest))?,
    };
    let (begin, end) = rest.strip_prefix(',')?.split_once(',')?;
    // Each is told in the time that ends with it.
    let year = Civil::of(at.checked_add(standard.into())?).year;
    let begin = moment(begin, year)? - i64::from(standard);
    let end = moment(end, year)? - i64::from(summer);
    let is_summer = match begin < end {
        true => (begin..end).contains(&at),
        false => !(end..begin).contains(&at),
    };
    Some(if is_summer { summer } else { standard })
}

/// What stands behind a name: letters, or anything in `<>`.
fn name(text: &str) -> Option<&str> {
    if let Some(quoted) = text.strip_prefix('<') {
        return quoted.split_once('>').map(|(_, rest)| rest);
    }
    let rest = text.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    (rest.len() < text.len()).then_some(rest)
}

/// `-5`, `3:30`, `167:59:59` in seconds, and what is behind it.
fn span(text: &str) -> Option<(i32, &str)> {
    let end = text.find(|c: char| !matches!(c, '0'..='9' | ':' | '+' | '-'));
    let (text, rest) = text.split_at(end.unwrap_or(text.len()));
    let (sign, text) = match text.strip_prefix('-') {
        Some(text) => (-1, text),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut seconds = 0;
    let mut unit = 3600;
    for part in text.split(':') {
        let part: u8 = part.parse().ok()?;
        seconds += i32::from(part) * unit;
        unit /= 60;
    }
    Some((sign * seconds, rest))
}

/// `M10.5.0/3` (the 5th, or last, Sunday of October at 3:00), `J60` (as if there was no leap day) or `59` (from 0)
/// in local time's seconds since 1970.
fn moment(text: &str, year: i64) -> Option<i64> {
    const DAY: i64 = 86_400;
    let (day, time) = match text.split_once('/') {
        Some((day, time)) => (day, span(time)?.0),
        None => (text, 7200),
    };
    let first = |year, month| {
        Civil {
            year,
            month,
            day: 1,
            hour: 0,
            minute: 0,
            second: 0,
        }
        .seconds()
    };
    let midnight = if let Some(rule) = day.strip_prefix('M') {
        let mut parts = rule.split('.').map(|part| part.parse::<u8>().ok());
        let (month, week, weekday) = (parts.next()??, parts.next()??, parts.next()??);
        let begin = first(year, month)?;
        let next = match month {
            12 => first(year + 1, 1)?,
            _ => first(year, month + 1)?,
        };
        // 1970 began on a Thursday.
        let is = (begin / DAY + 4).rem_euclid(7);
        let ahead = (i64::from(weekday) - is).rem_euclid(7);
        let mut found = begin + (ahead + 7 * (i64::from(week) - 1)) * DAY;
        while found >= next {
            found -= 7 * DAY;
        }
        found
    } else {
        let january = first(year, 1)?;
        match day.strip_prefix('J') {
            Some(day) => {
                let day: u16 = day.parse().ok()?;
                let is_leap = first(year, 3)? - january == 60 * DAY;
                january + (i64::from(day) - 1 + i64::from(is_leap && day > 59)) * DAY
            }
            None => january + i64::from(day.parse::<u16>().ok()?) * DAY,
        }
    };
    Some(midnight + i64::from(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-25 and 2026-07-01.
    const WINTER: i64 = 1_795_600_000;
    const SUMMER: i64 = 1_782_900_000;

    #[test]
    fn rules_tell_summer_from_winter() {
        let both = |rule: &str| (of_rule(rule, WINTER), of_rule(rule, SUMMER));
        let hours = |winter: i32, summer: i32| (Some(winter * 3600), Some(summer * 3600));
        assert_eq!(both("CET-1CEST,M3.5.0,M10.5.0/3"), hours(1, 2));
        assert_eq!(both("EST5EDT,M3.2.0,M11.1.0"), hours(-5, -4));
        // The southern half of the earth.
        assert_eq!(both("AEST-10AEDT,M10.1.0,M4.1.0/3"), hours(11, 10));
        // Summer time is told as the usual one, and winter as an hour less.
        assert_eq!(both("IST-1GMT0,M10.5.0,M3.5.0/1"), hours(0, 1));
        assert_eq!(both("<+0330>-3:30").0, Some(12_600));
        assert_eq!(both("UTC0"), hours(0, 0));
        assert_eq!(both("A1B,J60/0,J300/0"), hours(-1, 0));
        assert_eq!(both("A1B,59/0,299"), hours(-1, 0));
        for bad in [
            "",
            "5",
            "<+03-3",
            "CET-1CEST",
            "CET-1CEST,M3.5.0",
            "CET-1CEST,M13.5.0,M1.1.1",
            "A999",
        ] {
            assert_eq!(of_rule(bad, WINTER), None, "{bad}");
        }
    }

    #[test]
    fn summer_begins_and_ends_to_the_second() {
        // 2026-03-29 and 2026-10-25, both at 01:00 UTC.
        let rule = "CET-1CEST,M3.5.0,M10.5.0/3";
        let at = |seconds| of_rule(rule, seconds).unwrap() / 3600;
        assert_eq!((at(1_774_745_999), at(1_774_746_000)), (1, 2));
        assert_eq!((at(1_792_889_999), at(1_792_890_000)), (2, 1));
    }

    /// Of two changes, at 100 to an hour and at 200 to two.
    fn file(version: u8, rule: &str) -> Vec<u8> {
        let block = |wide: usize| {
            let mut bytes = b"TZif".to_vec();
            bytes.push(version);
            bytes.extend([0; 15]);
            for count in [0u32, 0, 0, 2, 3, 4] {
                bytes.extend(count.to_be_bytes());
            }
            for time in [100i64, 200] {
                bytes.extend(&time.to_be_bytes()[8 - wide..]);
            }
            bytes.extend([1, 2]);
            for offset in [0i32, 3600, 7200] {
                bytes.extend(offset.to_be_bytes());
                bytes.extend([0, 0]);
            }
            bytes.extend(b"ABC\0");
            bytes
        };
        let mut bytes = block(4);
        if version > 0 {
            bytes.extend(block(8));
            bytes.extend(format!("\n{rule}\n").bytes());
        }
        bytes
    }

    #[test]
    fn files_have_a_table_and_what_holds_behind_it() {
        for (file, behind) in [
            (file(0, ""), 7200),
            (file(b'2', ""), 7200),
            (file(b'2', "X-9"), 32_400),
        ] {
            assert_eq!(offset(&file, 99), Some(0));
            assert_eq!(offset(&file, 100), Some(3600));
            assert_eq!(offset(&file, 199), Some(3600));
            assert_eq!(offset(&file, 200), Some(behind));
        }
    }

    #[test]
    fn files_that_are_none_are_told() {
        let whole = file(b'2', "X-9");
        for length in 0..whole.len() - 5 {
            // Whatever it says, it ends.
            let _ = offset(&whole[..length], 150);
        }
        assert_eq!(offset(b"", 0), None);
        assert_eq!(offset(b"root:x:0:0:", 0), None);
        assert_eq!(offset(&whole[..60], 0), None);
        for at in 20..44 {
            let mut bad = whole.clone();
            bad[at] = 0xFF;
            assert_eq!(offset(&bad, 150), None, "{at}");
        }
    }
}
