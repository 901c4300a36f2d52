//! Colours and bars, as far as the terminal has them. Pure, but for [`Looks::of_environment`].

use quantix::message::node::VmState;
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::bar;
use ratatui::text::Span;

/// What the terminal can show.
#[derive(Clone, Copy, Debug)]
pub struct Looks {
    pub has_colour: bool,
    pub has_unicode: bool,
}

/// Bars of any height where there is nothing but ASCII.
const ASCII: bar::Set = bar::Set {
    full: "#",
    seven_eighths: "#",
    three_quarters: "*",
    five_eighths: "+",
    half: "=",
    three_eighths: "-",
    one_quarter: ":",
    one_eighth: ".",
    empty: " ",
};

impl Looks {
    /// By NO_COLOR (no-color.org), and by the locale as setlocale(3) finds it.
    pub fn of_environment() -> Self {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let mut locales = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(set);
        let locale = locales.next().unwrap_or_default().to_lowercase();
        Self {
            has_colour: set("NO_COLOR").is_none(),
            has_unicode: locale.contains("utf-8") || locale.contains("utf8"),
        }
    }

    pub const fn style(&self, colour: Color) -> Style {
        match self.has_colour {
            true => Style::new().fg(colour),
            false => Style::new(),
        }
    }

    /// For what should be seen, with colours or without.
    pub const fn loud(&self, colour: Color) -> Style {
        self.style(colour).add_modifier(Modifier::BOLD)
    }

    /// What keys are for. Bars stay as they are where there are colours.
    pub const fn selected(&self) -> Style {
        match self.has_colour {
            // A dark grey, of 256.
            true => Style::new().bg(Color::Indexed(237)),
            false => Style::new().add_modifier(Modifier::REVERSED),
        }
    }

    pub const fn of_state(&self, state: VmState) -> Style {
        match state {
            VmState::Ready => self.style(Color::Green),
            VmState::Stalled => self.loud(Color::Red),
            VmState::Queued | VmState::Waiting | VmState::Connecting => self.style(Color::Yellow),
            VmState::Absent | VmState::Unspecified => self.style(Color::DarkGray),
        }
    }

    /// A part of what there is: nearly all of it is seldom good.
    pub fn of_percent(&self, percent: f64) -> Style {
        match percent {
            _ if percent >= 90.0 => self.loud(Color::Red),
            _ if percent >= 75.0 => self.style(Color::Yellow),
            _ => Style::new(),
        }
    }

    pub fn percent(&self, percent: f64) -> Span<'static> {
        Span::styled(format!("{percent:.1} %"), self.of_percent(percent))
    }

    /// Bars of any height.
    pub const fn bars(&self) -> bar::Set<'static> {
        match self.has_unicode {
            true => bar::NINE_LEVELS,
            false => ASCII,
        }
    }

    /// A cell of so many percent. What is known is never empty.
    pub fn spark(&self, percent: Option<f64>) -> Span<'static> {
        let bars = self.bars();
        let Some(percent) = percent else {
            return Span::raw(" ");
        };
        let mark = match percent {
            _ if percent < 12.5 => bars.one_eighth,
            _ if percent < 25.0 => bars.one_quarter,
            _ if percent < 37.5 => bars.three_eighths,
            _ if percent < 50.0 => bars.half,
            _ if percent < 62.5 => bars.five_eighths,
            _ if percent < 75.0 => bars.three_quarters,
            _ if percent < 87.5 => bars.seven_eighths,
            _ => bars.full,
        };
        let style = match percent >= 75.0 {
            true => self.of_percent(percent),
            false => self.style(Color::Green),
        };
        Span::styled(mark, style)
    }
}
