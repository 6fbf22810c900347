//! Histograms as bars of text.

use std::fmt;

use crate::Histogram;

/// Characters of the longest bar.
const BAR: u64 = 40;

/// Named histograms to be printed together.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart {
    series: Vec<(String, Histogram)>,
}

impl AsciiChart {
    /// Shows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows this histogram too.
    pub fn add(mut self, name: &str, histogram: Histogram) -> Self {
        self.series.push((name.to_owned(), histogram));
        self
    }

    /// A line for each bucket that holds something.
    pub fn detailed(&self) -> Detailed<'_> {
        Detailed(self)
    }
}

/// Prints a chart.
#[derive(Debug)]
pub struct Detailed<'a>(&'a AsciiChart);

impl fmt::Display for Detailed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, histogram) in &self.0.series {
            writeln!(f, "{name} ({} values)", histogram.total())?;
            let highest = histogram.filled().map(|(_, count)| count).max().unwrap_or(1);
            for (from, count) in histogram.filled() {
                let length = (u128::from(count) * u128::from(BAR)).div_ceil(u128::from(highest)) as usize;
                writeln!(f, "{from:>20} {count:>12} {}", "#".repeat(length))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_counts() {
        let mut histogram = Histogram::new();
        histogram.record_n(1, 40);
        histogram.record_n(5, 10);
        let text = AsciiChart::new().add("append", histogram).detailed().to_string();
        let bars: Vec<usize> = text.lines().skip(1).map(|line| line.matches('#').count()).collect();
        assert!(text.starts_with("append (50 values)\n"), "{text}");
        assert_eq!(bars, [40, 10]);
    }
}
