//! What was measured: as Markdown, as JSON, and as a plot.

use std::fmt::Write as _;
use std::path::Path;

use super::peers::Run;

/// One contender at one work.
#[derive(Debug, Clone)]
pub struct Measure {
    pub work: String,
    pub who: String,
    /// Counted for the rate; 1 where only the time is of interest.
    pub events: usize,
    pub runs: Vec<Run>,
    /// Name, median with its spread, and the aim if there is one.
    ratios: Vec<(String, [f64; 3], Option<f64>)>,
}

impl Measure {
    pub fn new(work: &str, who: &str, events: usize) -> Measure {
        let (runs, ratios) = (Vec::new(), Vec::new());
        Measure { work: work.to_owned(), who: who.to_owned(), events, runs, ratios }
    }

    /// Another number of events than the work has.
    pub fn counting(self, events: usize) -> Measure {
        Measure { events, ..self }
    }

    pub fn add(&mut self, run: Run) {
        self.runs.push(run);
    }

    fn rates(&self) -> Vec<f64> {
        self.runs.iter().map(|run| self.events as f64 / run.seconds).collect()
    }

    /// Rate by rate, round by round; `aim`: at least.
    pub fn compare(&mut self, other: &Measure, aim: Option<f64>) {
        let pairs = self.rates().into_iter().zip(other.rates());
        let ratios: Vec<f64> = pairs.map(|(ours, theirs)| ours / theirs).collect();
        self.ratio(&format!("rate / {}", other.who), ratios, aim);
    }

    /// CPU for each event; `aim`: at most, shown as a negative number.
    pub fn compare_cpu(&mut self, other: &Measure, aim: f64) {
        let pairs = self.runs.iter().zip(&other.runs);
        let ratios = pairs.map(|(ours, theirs)| ours.cpu_seconds / theirs.cpu_seconds).collect();
        self.ratio(&format!("CPU / {}", other.who), ratios, Some(-aim));
    }

    pub fn compare_memory(&mut self, other: &Measure, aim: f64) {
        let pairs = self.runs.iter().zip(&other.runs);
        let ratios = pairs.map(|(ours, theirs)| ours.peak_mb / theirs.peak_mb).collect();
        self.ratio(&format!("memory / {}", other.who), ratios, Some(-aim));
    }

    fn ratio(&mut self, name: &str, ratios: Vec<f64>, aim: Option<f64>) {
        if !ratios.is_empty() {
            self.ratios.push((name.to_owned(), spread(ratios), aim));
        }
    }
}

/// Median, least, most.
pub fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    match values.as_slice() {
        [] => [f64::NAN; 3],
        [least, .., most] => [values[values.len() / 2], *least, *most],
        [only] => [*only; 3],
    }
}

/// Of sorted values.
pub fn percentile(sorted: &[i64], share: f64) -> i64 {
    let index = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(index).copied().unwrap_or(0)
}

#[derive(Debug, Default)]
pub struct Report {
    measures: Vec<Measure>,
    notes: Vec<String>,
    figures: Vec<(String, f64)>,
}

impl Report {
    pub fn extend(&mut self, measures: impl IntoIterator<Item = Measure>) {
        self.measures.extend(measures.into_iter().filter(|measure| !measure.runs.is_empty()));
    }

    pub fn note(&mut self, text: String) {
        println!("{text}");
        self.notes.push(text);
    }

    pub fn figure(&mut self, name: &str, value: f64) {
        self.figures.push((name.to_owned(), value));
    }

    /// Our rates at two works.
    pub fn compare(&mut self, work: &str, with: &str, aim: f64) {
        let ours = |name: &str| {
            self.measures.iter().position(|measure| {
                measure.who.starts_with("readside") && measure.work.ends_with(&format!(", {name}"))
            })
        };
        if let (Some(one), Some(other)) = (ours(work), ours(with)) {
            let other = Measure { who: with.to_owned(), ..self.measures[other].clone() };
            self.measures[one].compare(&other, Some(aim));
        }
    }

    pub fn write(&self, directory: &Path) {
        std::fs::create_dir_all(directory).expect("a directory");
        let markdown = self.markdown();
        let files = [
            ("side_by_side.md", markdown),
            ("side_by_side.json", self.json()),
            ("side_by_side.svg", self.plot()),
        ];
        for (name, text) in files {
            std::fs::write(directory.join(name), text).expect("disk space");
        }
    }

    pub fn markdown(&self) -> String {
        let mut text = String::new();
        if !self.measures.is_empty() {
            text += "| work | | median | from | to | CPU s | peak MB |\n| --- | --- | --- | --- | --- | --- | --- |\n";
        }
        for measure in &self.measures {
            let seconds = measure.events == 1;
            let [median, least, most] = spread(match seconds {
                true => measure.runs.iter().map(|run| run.seconds).collect(),
                false => measure.rates(),
            });
            let show = |value: f64| match seconds {
                true => format!("{value:.2} s"),
                false => format!("{:.0}k/s", value / 1e3),
            };
            let of = |value: fn(&Run) -> f64| {
                let [median, ..] = spread(measure.runs.iter().map(value).collect());
                if median.is_nan() { String::new() } else { format!("{median:.1}") }
            };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} |",
                measure.work,
                measure.who,
                show(median),
                show(least),
                show(most),
                of(|run| run.cpu_seconds),
                of(|run| run.peak_mb)
            );
        }
        let ratios = || {
            self.measures.iter().flat_map(|measure| measure.ratios.iter().map(move |ratio| (measure, ratio)))
        };
        if ratios().next().is_some() {
            text += "\n| work | ratio | median | from | to | aim |\n| --- | --- | --- | --- | --- | --- |\n";
        }
        for (measure, (name, [median, least, most], aim)) in ratios() {
            let aim = match aim {
                None => String::new(),
                Some(aim) if *aim < 0.0 => {
                    format!("at most {:.2}{}", -aim, if *median > -aim { ", missed" } else { "" })
                }
                Some(aim) => format!("at least {aim:.2}{}", if median < aim { ", missed" } else { "" }),
            };
            let _ = writeln!(
                text,
                "| {} | {name} | {median:.2} | {least:.2} | {most:.2} | {aim} |",
                measure.work
            );
        }
        for note in &self.notes {
            let table = note.starts_with('|');
            let _ = writeln!(text, "{}{note}", if table { "" } else { "\n" });
        }
        text
    }

    fn json(&self) -> String {
        let number =
            |value: f64| serde_json::Number::from_f64(value).map_or(serde_json::Value::Null, Into::into);
        let measures: Vec<serde_json::Value> = self
            .measures
            .iter()
            .map(|measure| {
                let runs = measure.runs.iter().map(|run| {
                    serde_json::json!({
                        "seconds": number(run.seconds), "cpu_seconds": number(run.cpu_seconds), "peak_mb": number(run.peak_mb),
                    })
                });
                serde_json::json!({
                    "work": measure.work, "who": measure.who, "events": measure.events,
                    "runs": runs.collect::<Vec<_>>(),
                    "ratios": measure.ratios.iter().map(|(name, [median, least, most], aim)| serde_json::json!({
                        "name": name, "median": number(*median), "least": number(*least), "most": number(*most), "aim": aim,
                    })).collect::<Vec<_>>(),
                })
            })
            .collect();
        let figures: serde_json::Map<_, _> =
            self.figures.iter().map(|(name, value)| (name.clone(), number(*value))).collect();
        serde_json::json!({ "measures": measures, "figures": figures }).to_string() + "\n"
    }

    /// Rates as bars, one group for each work.
    fn plot(&self) -> String {
        const LEFT: f64 = 260.0;
        const WIDTH: f64 = 460.0;
        const ROW: f64 = 18.0;
        let shown: Vec<&Measure> = self.measures.iter().filter(|measure| measure.events > 1).collect();
        let mut y = 10.0;
        let mut body = String::new();
        let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
        for group in shown.chunk_by(|a, b| a.work == b.work) {
            let of = |measure: &Measure| spread(measure.rates());
            let most = group.iter().map(|measure| of(measure)[2]).fold(1.0, f64::max);
            y += ROW;
            let _ = writeln!(
                body,
                r#"<text x="10" y="{y:.0}" font-weight="bold">{}</text>"#,
                escape(&group[0].work)
            );
            for measure in group {
                y += ROW;
                let [median, least, best] = of(measure);
                let x = |rate: f64| LEFT + rate / most * WIDTH;
                let colour = if measure.who.starts_with("readside") { "#2b6cb0" } else { "#a0aec0" };
                let _ = writeln!(
                    body,
                    r##"<text x="{:.0}" y="{y:.0}" text-anchor="end">{}</text><rect x="{LEFT}" y="{:.0}" width="{:.0}" height="{:.0}" fill="{colour}"/><line x1="{:.0}" x2="{:.0}" y1="{:.0}" y2="{:.0}" stroke="#1a202c"/><text x="{:.0}" y="{y:.0}">{:.0}k/s</text>"##,
                    LEFT - 6.0,
                    escape(&measure.who),
                    y - ROW + 6.0,
                    x(median) - LEFT,
                    ROW - 5.0,
                    x(least),
                    x(best),
                    y - ROW / 2.0 + 3.5,
                    y - ROW / 2.0 + 3.5,
                    x(best) + 6.0,
                    median / 1e3
                );
            }
            y += ROW / 2.0;
        }
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"820\" height=\"{:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n",
            y + ROW
        )
    }
}
