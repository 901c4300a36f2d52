//! Dates of the Gregorian calendar, in UTC and without leap seconds, as clocks keep them.

/// Seconds of a day.
const DAY: i64 = 86_400;

/// Seconds of 100,000 years.
const FAR: i64 = 3_155_695_200_000;

/// A point in time as people read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    /// 1970 is 1970.
    pub year: i64,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

/// Days from March to March are easier to count: a leap day is then the last of its year. Days of 400
/// years, of 100, of 4 and of one (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
const ERA: i64 = 146_097;
const MARCH_0000: i64 = 719_468;

impl Civil {
    /// The time so many seconds after 1970-01-01 00:00:00 UTC; the first or the last of all for what is
    /// 100,000 years away.
    pub fn of(seconds: i64) -> Self {
        let seconds = seconds.clamp(-FAR, FAR);
        let days = seconds.div_euclid(DAY) + MARCH_0000;
        let of_day = seconds.rem_euclid(DAY);
        let era = days.div_euclid(ERA);
        let of_era = days.rem_euclid(ERA);
        let years = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * years + years / 4 - years / 100);
        let shifted = (5 * of_year + 2) / 153;
        let month = if shifted < 10 {
            shifted + 3
        } else {
            shifted - 9
        };
        let small = |number: i64| u8::try_from(number).unwrap_or(0);
        Self {
            year: years + era * 400 + i64::from(month <= 2),
            month: small(month),
            day: small(of_year - (153 * shifted + 2) / 5 + 1),
            hour: small(of_day / 3600),
            minute: small(of_day / 60 % 60),
            second: small(of_day % 60),
        }
    }

    /// Seconds after 1970-01-01 00:00:00 UTC; `None`: there is no such date or time of day, or the year
    /// is not one of 1 to 9999.
    pub fn seconds(self) -> Option<i64> {
        let month = i64::from(self.month);
        let year = self.year - i64::from(month <= 2);
        let of_era = year.rem_euclid(400);
        let of_year =
            (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + i64::from(self.day) - 1;
        let days = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
        let days = year.div_euclid(400) * ERA + days - MARCH_0000;
        let of_day =
            i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second);
        let seconds = days * DAY + of_day;
        // A 31st of April comes back as a 1st of May.
        let exists = (1..=9999).contains(&self.year) && Self::of(seconds) == self;
        exists.then_some(seconds)
    }

    /// `2026-11-25T20:27:37Z` (RFC 3339), with a blank in place of the `T`, without the time of day, or
    /// without the `Z`, which is meant all the same; a fraction of a second is not read.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix(['Z', 'z']).unwrap_or(text);
        let (date, time) = text.split_once(['T', 't', ' ']).unwrap_or((text, "0:0:0"));
        let mut date = date.split('-');
        let mut time = time.split(':');
        let part = |of: &mut std::str::Split<char>| {
            let digits = of.next()?;
            let is_number = digits.bytes().all(|b| b.is_ascii_digit());
            is_number.then(|| digits.parse().ok())?
        };
        let year = date.next()?;
        let parsed = Self {
            year: year.parse().ok().filter(|_| year.len() == 4)?,
            month: part(&mut date)?,
            day: part(&mut date)?,
            hour: part(&mut time)?,
            minute: part(&mut time)?,
            second: part(&mut time).or(Some(0))?,
        };
        let is_all = date.next().is_none() && time.next().is_none();
        parsed.seconds().filter(|_| is_all).map(|_| parsed)
    }
}

impl std::fmt::Display for Civil {
    /// `2026-11-25 20:27:37`; alternate, as programs want it: `2026-11-25T20:27:37Z`.
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Self {
            year,
            month,
            day,
            hour,
            minute,
            second,
        } = self;
        let (between, behind) = if f.alternate() { ('T', "Z") } else { (' ', "") };
        write!(
            f,
            "{year:04}-{month:02}-{day:02}{between}{hour:02}:{minute:02}:{second:02}{behind}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates_are_right_both_ways() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_700_000_000, "2023-11-14 22:13:20"),
            (4_107_542_399, "2100-02-28 23:59:59"),
            (4_107_542_400, "2100-03-01 00:00:00"),
            (-1, "1969-12-31 23:59:59"),
            (-315_619_200, "1960-01-01 00:00:00"),
        ] {
            assert_eq!(Civil::of(seconds).to_string(), text);
            assert_eq!(
                Civil::parse(text).unwrap().seconds(),
                Some(seconds),
                "{text}"
            );
        }
        // Every day of 400 years, and one more than all of them.
        for day in 0..=ERA {
            assert_eq!(Civil::of(day * DAY).seconds(), Some(day * DAY));
        }
    }

    #[test]
    fn what_is_no_date_is_none() {
        for good in ["2026-11-25", "2026-11-25T20:27:37Z", "2026-11-25 20:27"] {
            assert!(Civil::parse(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "now",
            "2026-02-29",
            "2026-04-31",
            "2026-13-01",
            "2026-00-01",
            "26-01-01",
            "2026-01-01T24:00:00",
            "2026-01-01T00:60:00",
            "2026-01-01T00:00:00:00",
            "2026-01-01-01",
            "2026-+1-01",
            "-026-01-01",
            "2026-01-01T00:00:00+01:00",
        ] {
            assert_eq!(Civil::parse(bad), None, "{bad}");
        }
    }
}
