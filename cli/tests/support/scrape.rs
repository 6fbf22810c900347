//! Health and metrics of a peer as a scraper reads them: Prometheus text, taken strictly
//! (https://prometheus.io/docs/instrumenting/exposition_formats/).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};

use super::Peer;

/// The body of a page and its head.
pub fn get(peer: &Peer, path: &str) -> (String, String) {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", peer.http)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    (body.to_owned(), head.to_owned())
}

/// One reading of `/metrics`: values by series, written as `name{label="value",…}` with the labels sorted.
pub struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    pub fn read(peer: &Peer) -> Self {
        let (body, head) = get(peer, "/metrics");
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"), "{head}");
        Self::parse(&body).unwrap_or_else(|problem| panic!("{problem} in\n{body}"))
    }

    pub fn get(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }

    /// The value of a series that must be there.
    pub fn value(&self, series: &str) -> f64 {
        let known = || self.0.keys().map(|key| format!("{key}\n")).collect::<String>();
        self.get(series).unwrap_or_else(|| panic!("{series} is not among\n{}", known()))
    }

    /// What became of every series of these families since an earlier reading: those that changed.
    pub fn since(&self, earlier: &Scrape, families: &[&str]) -> BTreeMap<String, f64> {
        let of_family = |series: &str| families.contains(&series.split('{').next().unwrap_or_default());
        let changed = |(series, value): (&String, &f64)| {
            let change = value - earlier.get(series).unwrap_or(0.0);
            (change != 0.0).then(|| (series.clone(), change))
        };
        self.0.iter().filter(|(series, _)| of_family(series)).filter_map(changed).collect()
    }

    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.ends_with('\n') {
            return Err("the last line has no end".into());
        }
        let mut reader = Reader::default();
        for line in text.lines() {
            reader.line(line).map_err(|problem| format!("{problem}: {line:?}"))?;
        }
        reader.check_histograms()?;
        Ok(Self(reader.values))
    }
}

#[derive(Default)]
struct Reader {
    /// The family that is being read, and its type.
    family: Option<(String, String)>,
    helped: BTreeSet<String>,
    types: BTreeMap<String, String>,
    values: BTreeMap<String, f64>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or("no help")?;
            check_name(name)?;
            let new = self.helped.insert(name.to_owned());
            return if new && !help.is_empty() { Ok(()) } else { Err("a second or an empty help".into()) };
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or("no type")?;
            if !["counter", "gauge", "histogram", "summary", "untyped"].contains(&kind) {
                return Err("an unknown type".into());
            }
            if !self.helped.contains(name) || self.types.insert(name.to_owned(), kind.to_owned()).is_some() {
                return Err("a second type, or one without help".into());
            }
            self.family = Some((name.to_owned(), kind.to_owned()));
            return Ok(());
        }
        self.sample(line)
    }

    fn sample(&mut self, line: &str) -> Result<(), String> {
        let (family, kind) = self.family.as_ref().ok_or("a sample before its type")?;
        let end = line.find(['{', ' ']).ok_or("no value")?;
        let (name, rest) = line.split_at(end);
        check_name(name)?;
        let suffix = name.strip_prefix(family.as_str()).ok_or("a sample of another family")?;
        let suffixes: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        if !suffixes.contains(&suffix) || (kind == "counter" && !name.ends_with("_total")) {
            return Err(format!("no name of a {kind}"));
        }
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => read_labels(rest)?,
            None => (BTreeMap::new(), rest),
        };
        let value = rest.strip_prefix(' ').ok_or("no space before the value")?;
        let value = if value == "+Inf" { f64::INFINITY } else { value.parse().map_err(|_| "no number")? };
        if kind == "counter" && value < 0.0 {
            return Err("a counter below 0".into());
        }
        match self.values.insert(series(name, &labels), value) {
            None => Ok(()),
            Some(_) => Err("the series stands there twice".into()),
        }
    }

    /// Buckets grow, and the last one is the count.
    fn check_histograms(&self) -> Result<(), String> {
        let histograms = self.types.iter().filter(|(_, kind)| *kind == "histogram");
        for (family, _) in histograms {
            let counts =
                self.values.iter().filter(|(series, _)| family_of(series) == format!("{family}_count"));
            for (count_series, count) in counts {
                let own = count_series.trim_start_matches(&format!("{family}_count"));
                let own: BTreeSet<&str> =
                    own.trim_matches(['{', '}']).split(',').filter(|l| !l.is_empty()).collect();
                let mut buckets: Vec<(f64, f64)> = Vec::new();
                for (series, value) in &self.values {
                    if family_of(series) != format!("{family}_bucket") {
                        continue;
                    }
                    let labels =
                        series.split_once('{').map_or("", |(_, labels)| labels).trim_end_matches('}');
                    let (le, others): (Vec<&str>, Vec<&str>) =
                        labels.split(',').partition(|label| label.starts_with("le="));
                    if others.into_iter().collect::<BTreeSet<_>>() != own {
                        continue;
                    }
                    let le =
                        le.first().ok_or("a bucket without le")?.trim_start_matches("le=").trim_matches('"');
                    let le = if le == "+Inf" {
                        f64::INFINITY
                    } else {
                        le.parse().map_err(|_| "le is no number")?
                    };
                    buckets.push((le, *value));
                }
                buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
                let grows = buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1);
                if !grows || buckets.last() != Some(&(f64::INFINITY, *count)) {
                    return Err(format!("{count_series}: its buckets do not add up"));
                }
                let sum = count_series.replacen("_count", "_sum", 1);
                self.values.get(&sum).ok_or_else(|| format!("{sum} is missing"))?;
            }
        }
        Ok(())
    }
}

fn family_of(series: &str) -> &str {
    series.split('{').next().unwrap_or_default()
}

fn series(name: &str, labels: &BTreeMap<String, String>) -> String {
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    if labels.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", labels.join(",")) }
}

fn check_name(name: &str) -> Result<(), String> {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    let good = name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit());
    if good { Ok(()) } else { Err(format!("{name:?} is no name")) }
}

/// Labels up to the closing brace, and what follows it.
fn read_labels(mut rest: &str) -> Result<(BTreeMap<String, String>, &str), String> {
    let mut labels = BTreeMap::new();
    loop {
        let (name, after) = rest.split_once("=\"").ok_or("no label")?;
        check_name(name)?;
        let mut value = String::new();
        let mut letters = after.char_indices();
        let end = loop {
            match letters.next().ok_or("a label's value has no end")? {
                (at, '"') => break at,
                (_, '\\') => match letters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, same @ ('"' | '\\'))) => value.push(same),
                    _ => return Err("an unknown escape".into()),
                },
                (_, letter) => value.push(letter),
            }
        };
        if labels.insert(name.to_owned(), value).is_some() {
            return Err("a label stands there twice".into());
        }
        rest = &after[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Ok((labels, rest.strip_prefix('}').ok_or("no closing brace")?)),
        }
    }
}
