//! Several objectives of a search, as they are typed.

use adapruner::{
    outputs::Format,
    search::{EarlyStop, FrontSettings, Quantity, front::SpeedSettings},
};
use anyhow::Result;

use crate::{
    budget_args::SpeedArgs,
    combine::Combine,
    failure::advised,
    output_args::OutputArgs,
    plan_args::PlanArgs,
    search_args::SearchArgs,
    typed::{Named, Shares},
};

impl SearchArgs {
    /// Settings of several objectives; `None` for one.
    ///
    /// # Errors
    /// An objective twice, none that is the loss, no range of ratios, options that do not go
    /// with them.
    pub fn front(
        &self,
        plan: &PlanArgs,
        output: &OutputArgs,
        speed: &SpeedArgs,
    ) -> Result<Option<FrontSettings>> {
        let objectives: Vec<Quantity> =
            self.objectives.iter().flatten().map(|Named(of)| *of).collect();
        let timed = objectives.contains(&Quantity::Latency);
        if objectives.len() < 2 {
            return self.refuse_without_front(&objectives, plan);
        }
        if let Some(twice) =
            (1..objectives.len()).find(|&at| objectives[..at].contains(&objectives[at]))
        {
            return Err(advised(
                format!("objectives: {} is there twice", objectives[twice]),
                "name each once: --objectives loss,params",
            ));
        }
        if !objectives.contains(&Quantity::Loss) {
            return Err(advised(
                "objectives: expected loss among them",
                "what the smaller model loses is measured: --objectives loss,params",
            ));
        }
        let ratios = match plan.ratio {
            Some(Shares::Between(least, most)) if 0.0 < least && least < most && most < 1.0 => {
                (least, most)
            }
            Some(Shares::Between(least, most)) => {
                return Err(advised(
                    format!(
                        "ratio: expected a range within 0 and 1, the smaller first, found \
                         {least}..{most}"
                    ),
                    "give the smallest and largest share to remove: --ratio 0.1..0.5",
                ));
            }
            Some(Shares::One(ratio)) => {
                return Err(advised(
                    format!("ratio: expected a range for several objectives, found {ratio}"),
                    "give the smallest and largest share to remove: --ratio 0.1..0.5",
                ));
            }
            None => {
                return Err(advised(
                    "ratio: missing",
                    "give the smallest and largest share to remove: --ratio 0.1..0.5",
                ));
            }
        };
        if self.early_stop.is_some_and(|rule| rule.0 != EarlyStop::Off) {
            return Err(advised(
                "early-stop: trials of several objectives are measured whole",
                "leave --early-stop out",
            ));
        }
        if self.test.as_ref().is_some_and(|tests| !tests.is_empty()) {
            return Err(advised(
                "test: a front has no best trial to measure on it",
                "apply a point of the front (apply --study DIR --target-params N), then eval it",
            ));
        }
        let bytes = objectives.contains(&Quantity::Bytes);
        if !bytes {
            self.refuse_types()?;
        }
        let typed = OutputArgs {
            format: self.format.or(self.gguf_type.map(|_| Named(Format::Gguf))).map(|of| vec![of]),
            gguf_type: self.gguf_type,
            ..OutputArgs::default()
        };
        let speed = timed.then(|| SpeedSettings {
            timed: speed.speedup_of.map_or_else(Default::default, |Named(timed)| timed),
            context: speed.budget_context,
            calibration: speed.speed_calibration.clone(),
        });
        Ok(Some(FrontSettings { objectives, ratios, stored: typed.over(output).stored(), speed }))
    }

    /// Refuses options of a speed, as they were typed, where none is an objective.
    ///
    /// # Errors
    /// The first of them.
    pub fn refuse_speed(&self, typed: &SpeedArgs) -> Result<()> {
        const HINT: &str = "add latency to --objectives, or give it to apply";
        if self.objectives.iter().flatten().any(|of| of.0 == Quantity::Latency) {
            return Ok(());
        }
        typed.refuse("latency among the objectives", HINT)?;
        match typed.budget_context {
            None => Ok(()),
            Some(_) => {
                Err(advised("budget-context: given without latency among the objectives", HINT))
            }
        }
    }

    /// Refuses what only several objectives have.
    fn refuse_without_front(
        &self,
        objectives: &[Quantity],
        plan: &PlanArgs,
    ) -> Result<Option<FrontSettings>> {
        if let [other] = objectives
            && *other != Quantity::Loss
        {
            return Err(advised(
                format!("objectives: {other} alone would remove as much as it may"),
                "name the loss, too: --objectives loss,params",
            ));
        }
        if let Some(range @ Shares::Between(..)) = plan.ratio {
            return Err(advised(
                format!("ratio: expected one share for one objective, found the range {range}"),
                "name several objectives, --objectives loss,params, or give one share, --ratio 0.2",
            ));
        }
        self.refuse_types()?;
        Ok(None)
    }

    /// Refuses file types where bytes are no objective.
    fn refuse_types(&self) -> Result<()> {
        let given = [("format", self.format.is_some()), ("gguf-type", self.gguf_type.is_some())];
        match given.into_iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((option, _)) => Err(advised(
                format!("{option}: bytes are no objective of this search, and it writes no model"),
                "add bytes to --objectives, or give it to apply",
            )),
        }
    }
}
