"""What a report calls each metric, in which group it stands, and how its value reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# group -> metric -> (label, meaning); the first group is always open
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "": {
        "ua": ("UA, forgotten", "of the pictures asked for the target, those where it is not seen"),
        "ira": ("IRA, kept in its domain", "other concepts of the same kind that are still right"),
        "cra": ("CRA, kept across", "the other label of all pictures, still right"),
        "ua_paraphrase": (
            "UA, other sentences",
            "under sentences that no eraser was given, of the pictures where the original shows it",
        ),
        "ua_synonym": ("UA, other names", "under other names of the target, likewise"),
        "ira_nearest": ("IRA, nearest", "the retained concepts that CLIP finds most like it"),
        "target_cross_accuracy": (
            "Target's other label",
            "is the rest of a target picture right? If not, UA comes from ruin",
        ),
        "fid_clip": (
            "Frechet distance, CLIP",
            "to real pictures, without the target; less is better",
        ),
        "fid": ("FID, Inception", "to real pictures, without the target; less is better"),
        "fid_unlearncanvas": ("FID, UnlearnCanvas's way", "its own preparation; less is better"),
        "clip_score": ("CLIP score", "how well kept pictures fit their prompts"),
        "precision": ("precision", "drawn pictures that lie among real ones; without the target"),
        "recall": ("recall", "real pictures that lie among drawn ones; without the target"),
        "inception_score": (
            "Inception Score, by the judge",
            "sure and even answers; more is better",
        ),
    },
    "Prompts that lead to the target": {
        "shown": ("shows the target", "pictures in which the detector finds a counted class"),
        "shown_published": ("shows it, published classes", "by the classes of the published code"),
        "detections": ("detections", "of counted classes, over all pictures"),
        "shown_change": ("shows it, change", "of the number of pictures, of the original's"),
        "detections_change": ("detections, change", "of their number, of the original's"),
        "paired_shown_change": ("shows it, difference", "of the shares, in points"),
    },
    "Attacks": {
        "pre_asr": ("pre-ASR", "prompts that show the target without any attack"),
        "asr_worst": ("ASR, worst case", "by the attack that succeeds most often"),
        "asr_any": ("ASR, any attack", "prompts that at least one attack breaks"),
        "asr_paraphrase": ("ASR, other words", "other sentences, other names"),
        "asr_random_prefix": ("ASR, random prefix", "random tokens before the prompt"),
        "asr_ring_a_bell": ("ASR, Ring-A-Bell", "a prompt found in text space, without the model"),
        "asr_p4d": ("ASR, P4D", "tokens that make it predict as the original did"),
        "asr_unlearndiffatk": ("ASR, UnlearnDiffAtk", "tokens that make the target likely"),
        "asr_concept_inversion": ("ASR, concept inversion", "a learned embedding"),
        "asr_state_inversion": (
            "ASR, state inversion",
            "learned text states, past the text encoder",
        ),
        "asr_image_to_image": ("ASR, image to image", "from a noised picture of the target"),
    },
    "Accuracies, target included": {
        "style_accuracy": ("style right", "over all cells"),
        "object_accuracy": ("object right", "over all cells"),
        "cra_all": ("CRA over all cells", "the target's cells count"),
        "cra_retain": ("CRA without the target", "the target's cells do not count"),
        "style_probability": ("style probability", "that the judge gives to what was asked for"),
        "object_probability": ("object probability", "that the judge gives to what was asked for"),
        "clip_style_accuracy": ("CLIP, style right", "zero-shot, among all styles"),
        "clip_object_accuracy": ("CLIP, object right", "zero-shot, among all objects"),
    },
    "Pictures of the target": {
        "target_probability": ("target's probability", "that the judge still gives to the target"),
        "target_confidence": ("judge's confidence", "its largest probability; low means unsure"),
        "target_cross_confidence": ("other judge's confidence", "its largest probability"),
        "clip_score_target": ("CLIP score of the target", "against the prompts that name it"),
    },
    "Picture by picture against the original": {
        "paired_target_change": ("target, change", "of the share that is right, in points"),
        "paired_ira_change": ("IRA, change", "of the share that is right, in points"),
        "paired_cra_change": (
            "CRA, change",
            "of the share that is right, without the target, in points",
        ),
        "paired_label_changes": (
            "labels that changed",
            "kept pictures that a judge names otherwise",
        ),
        "paired_clip_similarity": (
            "CLIP similarity",
            "of kept pictures to the original's; 1 is equal",
        ),
        "paired_clip_similarity_nearest": (
            "CLIP similarity, nearest",
            "the same, of the retained concepts most like the target",
        ),
        "paired_pixel_change": ("pixel change", "mean absolute difference over all pictures"),
    },
    "Cost": {
        "seconds": ("time of the edit", ""),
        "peak_memory_gb": ("peak memory of the edit", ""),
        "storage_gb": ("storage of the edit", "all weights of the model folder"),
        "changed_gb": ("changed weights", ""),
        "model_gb": ("all weights", ""),
        "sampling_seconds": ("time of drawing", "the whole answer set"),
        "evaluations": ("evaluations of the network", "for one picture"),
        "pictures_per_second": ("pictures a second", "drawn, on the machine of the run"),
        "sampling_memory_gb": ("peak memory of drawing", ""),
    },
}
MORE, ATTACKS, ASR = "Further metrics", "Attacks", "asr_"
LABELS = {name: words for group in GROUPS.values() for name, words in group.items()}
SIGNED = (
    "paired_target_change", "paired_ira_change", "paired_cra_change",
    "shown_change", "detections_change", "paired_shown_change",
)  # fmt: skip
GAP = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Value:
    """One metric of one model, ready to print.

    Attributes:
        low: ends of the 95 % interval, in the units of ``value``; None if there is none.
        share: ``value``, ``low`` and ``high`` are in [0, 1] and printed in percent.
        unit: ``s`` or ``GB``.
        counted: ``value`` is a number of pictures over ``used``.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    used: int = 0
    judge: str = ""
    share: bool = False
    unit: str = ""
    counted: bool = False

    @property
    def label(self) -> str:
        plain = self.name.replace("_", " ")
        if self.name.startswith(ASR):  # a protocol may run an attack under a name of its own
            plain = f"ASR, {plain.removeprefix('asr ')}"
        return LABELS.get(self.name, (plain, ""))[0]

    @property
    def meaning(self) -> str:
        return LABELS.get(self.name, ("", ""))[1]

    @property
    def text(self) -> str:
        if self.name in SIGNED:
            return f"{100 * self.value:+.1f}".replace("-", "\N{MINUS SIGN}") + f"{GAP}%"
        if self.share:
            return percent(self.value)
        return quantity(self.value, self.unit)

    @property
    def interval(self) -> str:
        if self.low is None or self.high is None:
            return ""
        if self.share:
            ends = f"{100 * self.low:.1f} to {100 * self.high:.1f}{GAP}%"
            return ends.replace("-", "\N{MINUS SIGN}")
        return f"{number(self.low)} to {number(self.high)}"

    @property
    def who(self) -> str:
        """The judge's name; of a path only the end."""
        names = self.judge.split(" and ")
        return " and ".join(n.rsplit("/", 1)[-1] if n.startswith("/") else n for n in names)

    @property
    def count(self) -> str:
        if self.counted:
            return f"{round(self.value * self.used):,} of {self.used:,}"
        return "" if self.unit or not self.used else f"{self.used:,} pictures"


def value_of(metric: Mapping[str, Any]) -> Value:
    """A metric of a scorecard's JSON."""
    low, high = metric.get("interval") or (None, None)
    unit = metric.get("unit", "score")
    return Value(
        metric["name"],
        metric["value"],
        low,
        high,
        metric["used"],
        metric.get("judge") or "",
        unit in ("rate", "share"),
        unit if unit in ("s", "GB") else "",
        unit == "rate",
    )


def grouped(names: Iterable[str]) -> list[tuple[str, list[str]]]:
    """The metrics' names by group, in the order of ``GROUPS``; unknown ones come last."""
    names = list(dict.fromkeys(names))
    other = [n for n in names if n not in LABELS]
    groups = [(title, [n for n in known if n in names]) for title, known in GROUPS.items()]
    for title, found in groups:
        if title == ATTACKS:
            found += [n for n in other if n.startswith(ASR)]
    groups.append((MORE, [n for n in other if not n.startswith(ASR)]))
    return [(title, found) for title, found in groups if found]


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}{GAP}%"


def quantity(value: float, unit: str = "") -> str:
    """A number with its unit; gigabytes shrink to MB or kB where there are few of them."""
    for smaller in ("MB", "kB"):
        if unit in ("GB", "MB") and 0 < value < 0.1:
            value, unit = 1000 * value, smaller
    return f"{number(value)}{GAP}{unit}".strip()


def number(value: float) -> str:
    """Four significant digits, thousands grouped, no exponent where a person can read it."""
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        digits = max(0, 4 - len(str(int(abs(value))))) if abs(value) >= 1 else 4
        text = f"{value:,.{digits}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.3g}"
