//! Samples and the Markdown table they are printed as.

/// Measured values, sorted.
#[derive(Clone)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// Takes the values in any order.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        assert!(!values.is_empty(), "nothing was measured");
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// The value below which this share (0 to 1) of all values lies.
    pub fn at(&self, share: f64) -> f64 {
        let place = (share * (self.0.len() - 1) as f64).round();
        self.0[place as usize]
    }

    /// The middle.
    pub fn median(&self) -> f64 {
        self.at(0.5)
    }
}

/// What a row is held against.
#[derive(Clone, Copy)]
pub enum Aim {
    /// The median must not be larger.
    AtMost(f64),
    /// The median must not be smaller.
    AtLeast(f64),
    /// Only told.
    None,
}

/// The report.
#[derive(Default)]
pub struct Table {
    rows: Vec<String>,
    /// Rows that miss their aim.
    pub missed: usize,
}

impl Table {
    /// Adds a row and shows it at once.
    pub fn row(&mut self, what: &str, unit: &str, sample: &Sample, aim: Aim) {
        let (aim, met) = match aim {
            Aim::AtMost(limit) => (format!("≤ {}", short(limit)), Some(sample.median() <= limit)),
            Aim::AtLeast(limit) => (format!("≥ {}", short(limit)), Some(sample.median() >= limit)),
            Aim::None => (String::new(), None),
        };
        self.missed += usize::from(met == Some(false));
        let met = met.map_or("", |met| if met { "yes" } else { "**no**" });
        let row = format!(
            "| {what} | {unit} | {} | {} | {} | {} | {} | {aim} | {met} |",
            short(sample.at(0.0)),
            short(sample.median()),
            short(sample.at(0.95)),
            short(sample.at(1.0)),
            sample.0.len(),
        );
        eprintln!("{row}");
        self.rows.push(row);
    }

    /// The table.
    pub fn markdown(&self) -> String {
        format!(
            "| What | Unit | Min | Median | p95 | Max | Runs | Aim (median) | Met |\n\
             |---|---|--:|--:|--:|--:|--:|--:|---|\n{}\n",
            self.rows.join("\n")
        )
    }
}

/// Three significant digits are all that a shared machine can promise.
fn short(value: f64) -> String {
    let size = value.abs();
    if size >= 1000.0 {
        let digits = format!("{value:.0}");
        let mut out = String::new();
        for (place, digit) in digits.chars().enumerate() {
            if place > 0 && (digits.len() - place).is_multiple_of(3) {
                out.push(' ');
            }
            out.push(digit);
        }
        out
    } else if size >= 100.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}
