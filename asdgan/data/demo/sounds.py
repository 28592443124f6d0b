"""How the machines of the demo plant sound: one clip, with a fault or without it.

Each machine type is built from what makes such a machine sound: shaft and blades, bearings,
strokes, impacts, gears, rollers; around it a hall with its noise, its other machines and its
accidents. A section is one machine: its speed, blade count, resonances and place in the hall never
change. A clip is one moment of it: gain, load, speed and noise vary from clip to clip, alike in
train and test and for both labels. An anomalous clip is such a moment with a fault added:
`PLANTED` says which. Nothing else tells the labels apart:

- a clip is keyed by (seed, machine type, section, split, label, index); the fault draws from a
  generator of its own, so that the moment beneath is what it would have been without it;
- gain, load, noise and severity follow a low-discrepancy sequence over the index: ten clips
  already cover their ranges evenly, and one plant is about as hard as the next;
- a fault's level is stated relative to its machine (`FAULTS`), from hardly there to plain, and
  adds little to a loudness that the gain spreads over 8 dB (`tests/data/test_plant.py` holds that
  loudness alone comes to no AUC of 0.7). No clip is scaled to its own peak or
  level, which would move the noise floor with the fault.

All arithmetic is float64: what two processors round differently lies some eleven digits below a
16-bit step, so that the same settings give the same bytes.
"""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng

CYCLE = 2048  # points a turn is tabulated at; a power of two, for the wrap is a mask

Levels = Mapping[str, tuple[float, float]]

SECTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {  # as the development set spells them; three each, ToyConveyor has no more
        "fan": ("00", "02", "04"),
        "pump": ("00", "02", "04"),
        "slider": ("00", "02", "04"),
        "valve": ("00", "02", "04"),
        "ToyCar": ("01", "02", "03"),
        "ToyConveyor": ("01", "02", "03"),
    }
)

PLANTED: Mapping[str, str] = MappingProxyType(
    {
        "fan": "Imbalance: the rotor shakes its frame, and harmonics of the shaft rise. "
        "Rubbing: blade tips scrape the shroud once a turn, hardest at 5 kHz. "
        "Clogging: a blocked inlet stalls the blades, a low rumble comes and goes.",
        "pump": "Bearing fault: the outer race is pitted, each ball rings the housing. "
        "Clogging: the starved inlet cavitates, vapour bubbles crackle between 3 and 7 kHz.",
        "slider": "Rubbing: the dry rail squeals while the carriage moves. "
        "Loose part: a plate rattles after every reversal.",
        "valve": "Missing impacts: the plunger sticks, its knock fails to come, the coil buzzes. "
        "Clogging: dirt on the seat, the closed valve hisses.",
        "ToyCar": "Imbalance: a bent axle presses the gears together once a turn of the wheel. "
        "Rubbing: something tangled in the wheel scrapes the body. "
        "Bearing fault: the worn motor bearing clicks.",
        "ToyConveyor": "Loose part: one roller is off its clip and rattles in bursts. "
        "Rubbing: the belt chafes the frame at its seam.",
    }
)

FAULTS: Mapping[str, Levels] = MappingProxyType(
    {  # the weakest and the strongest, in dB relative to the machine's nominal level
        "fan": {"imbalance": (-14, 2), "rubbing": (-14, 0), "clogging": (-8, 3)},
        "pump": {"bearing fault": (-13, 2), "clogging": (-17, -1)},
        "slider": {"rubbing": (-16, -1), "loose part": (-14, 1)},
        "valve": {"missing impacts": (-11, 4), "clogging": (-9, 4)},
        "ToyCar": {"imbalance": (-16, -2), "rubbing": (-17, -2), "bearing fault": (-11, 2)},
        "ToyConveyor": {"loose part": (-12, 2), "rubbing": (-14, 0)},
    }
)


class Clip(NamedTuple):
    """One clip of the plan; `section` counts from 0, `name` is relative to the plant's folder."""

    name: str
    machine_type: str
    section: int
    split: str
    label: str
    number: int


class Moment(NamedTuple):
    """What a machine's recipe is given.

    `build` draws the same for every clip of a section, `now` differs by clip, `harm` serves the
    fault alone. `load` runs from -1 to 1, `severity` from 0 to 1.
    """

    samples: int
    rate: int
    section: int
    build: Generator
    now: Generator
    harm: Generator
    load: float
    fault: str | None
    severity: float


def sound(clip: Clip, *, seed: int, seconds: float, rate: int, faulty: bool) -> np.ndarray:
    """One clip, shape (samples,), full scale ±1.

    Args:
        clip: Which one.
        seed: Of the plant.
        seconds: Its length.
        rate: In Hz; every resonance is placed under the half of 16000.
        faulty: Whether the fault is heard; otherwise it is the same moment unharmed.
    """
    samples = round(seconds * rate)
    machine = list(SECTIONS).index(clip.machine_type)
    group = ("train/normal", "test/normal", "test/anomaly").index(f"{clip.split}/{clip.label}")

    def generator(*key: int) -> Generator:
        return default_rng(SeedSequence(seed, spawn_key=(machine, clip.section, *key)))

    gain, load, severity, noise, near, events = _spread(generator(1, group), clip.number)
    kinds = list(FAULTS[clip.machine_type].items())
    kind, (weakest, strongest) = kinds[(clip.number + clip.section) % len(kinds)]
    moment = Moment(
        samples=samples,
        rate=rate,
        section=clip.section,
        build=generator(0),
        now=generator(2, group, clip.number),
        harm=generator(3, group, clip.number),
        load=2 * load - 1,
        fault=kind if faulty else None,
        severity=severity,
    )
    heard, trace = MACHINES[clip.machine_type](moment)
    if trace is not None:
        power = math.sqrt(float(np.mean(np.square(trace))))
        heard += _decibels(weakest + (strongest - weakest) * severity) / (power or 1.0) * trace
    build, now = generator(4), generator(5, group, clip.number)
    hall = _decibels(-5 + 4 * (2 * noise - 1))  # dB relative to the machine
    spectrum = np.fft.rfft(heard) * _echo(build, samples) + hall * _hall(
        build, now, near, samples, rate
    )
    spectrum[0] = 0  # a microphone hears no standing pressure
    heard = np.fft.irfft(spectrum, samples)
    for _ in range(int(0.35 * seconds * events)):  # something is dropped, or struck
        at, blow = now.random(1) * samples, 2 * hall * np.exp(now.normal(0, 0.5, 1))
        hertz, decay = 2 ** now.uniform(8.5, 11.5), now.uniform(0.03, 0.15)
        heard += _ring(samples, rate, at, blow, decay, hertz)
    return _decibels(-35 + 4 * (2 * gain - 1)) * heard  # dB re full scale


def _spread(rng: Generator, index: int) -> list[float]:
    """Six numbers in 0..1 that fill their ranges evenly as `index` runs (scrambled Halton)."""
    numbers = []
    for base in (2, 3, 5, 7, 11, 13):
        digits, rest, place, number = rng.permutation(base), index, 1.0, rng.random()
        while place > 1e-9:
            rest, digit = divmod(rest, base)
            place /= base
            number += place * int(digits[digit])
        numbers.append(number % 1)
    return numbers


def _decibels(level: float) -> float:
    return 10 ** (level / 20)


@lru_cache(maxsize=32)
def _bell(samples: int, rate: int, hertz: float, width: float) -> np.ndarray:
    """Spectral curve around `hertz`, `width` octaves wide, for noise of mean square 1."""
    octaves = np.log2(np.maximum(np.fft.rfftfreq(samples, 1 / rate), 1.0))
    return _normal(np.exp(-0.5 * ((octaves - math.log2(hertz)) / width) ** 2), samples)


def _normal(curve: np.ndarray, samples: int) -> np.ndarray:
    curve[0] = 0  # no DC
    return curve * (samples / (2 * math.sqrt(float(np.sum(curve**2)))))


def _draw(rng: Generator, curve: np.ndarray) -> np.ndarray:
    """A Gaussian spectrum under a curve: its inverse transform is the noise."""
    return rng.standard_normal(2 * len(curve)).view(np.complex128) * curve


def _noise(rng: Generator, m: Moment, hertz: float, width: float) -> np.ndarray:
    """Gaussian noise of mean square 1 around `hertz`, a bell `width` octaves wide."""
    return np.fft.irfft(_draw(rng, _bell(m.samples, m.rate, hertz, width)), m.samples)


def _echo(build: Generator, samples: int) -> np.ndarray:
    """Transfer from machine to microphone: direct, and a short reverberation, the section's own.

    Applied circularly, so that a clip begins in the middle of a machine at work.
    """
    echo = build.standard_normal(3200) * np.exp(-np.arange(3200) / 600.0)
    echo *= 0.5 / math.sqrt(float(np.sum(echo**2)))
    echo[0] += 1
    return np.fft.rfft(echo, samples)


def _hall(build: Generator, now: Generator, near: float, samples: int, rate: int) -> np.ndarray:
    """Spectrum of the factory around the machine: noise, far motors, a neighbour's hiss."""
    hertz = np.fft.rfftfreq(samples, 1 / rate)
    tilt = 0.55 + 0.06 * now.standard_normal()
    curve = np.maximum(hertz, 45.0) ** -tilt * (hertz > 20)
    power = float(np.sum(curve**2))
    for at in 2 ** build.uniform(6.5, 9.5, 2) * (1 + 0.003 * now.standard_normal(2)):
        around = slice(max(int((at - 3) * samples / rate), 1), int((at + 3) * samples / rate) + 2)
        line = np.exp(-0.5 * ((hertz[around] - at) / 0.6) ** 2)  # a tone that swells and fades
        curve[around] += line * math.sqrt(0.04 * power / float(np.sum(line**2)))
    at, level = 2 ** now.uniform(9.5, 12.5), 14 * near - 22  # Hz, dB relative to the noise
    neighbour = np.exp(-np.abs(hertz - at) / (0.2 * at))
    neighbour *= _decibels(level) * math.sqrt(power / float(np.sum(neighbour**2)))
    return _draw(now, _normal(np.hypot(curve, neighbour), samples))


def _wander(rng: Generator, m: Moment, every: float) -> np.ndarray:
    """A slow curve about 0 of standard deviation near 1, with a knot each `every` seconds."""
    knots = math.ceil(m.samples / m.rate / every) + 2
    place = np.arange(m.samples) / (m.rate * every)
    return np.interp(place, np.arange(knots), rng.standard_normal(knots))


def _swell(rng: Generator, m: Moment, every: float, depth: float) -> np.ndarray:
    """A slow positive factor; `depth` is the standard deviation of its logarithm."""
    return np.exp(depth * _wander(rng, m, every))


def _turns(m: Moment, hertz: float, drift: float) -> np.ndarray:
    """Angle of a shaft in turns: its speed sags with load, differs by clip, drifts within it."""
    speed = hertz * (1 - 0.012 * m.load + 0.004 * m.now.standard_normal())
    return m.now.random() + np.cumsum(speed / m.rate * (1 + drift * _wander(m.now, m, 1.5)))


def _mains(m: Moment) -> np.ndarray:
    """Turns of what the mains shake: 100 a second."""
    return m.now.random() + np.arange(m.samples) * (100 / m.rate)


def _tones(turns: np.ndarray, rng: Generator, harmonics: int, slope: float) -> np.ndarray:
    """Harmonics of a rotation, mean square 1; each falls by `slope` dB, give or take 3."""
    levels = -slope * np.arange(harmonics) + 3 * rng.standard_normal(harmonics)
    comb = np.zeros(CYCLE // 2 + 1, complex)
    comb[1 : harmonics + 1] = 10 ** (levels / 20) * np.exp(2j * np.pi * rng.random(harmonics))
    comb *= CYCLE * math.sqrt(0.5 / float(np.sum(np.abs(comb) ** 2)))
    return _each_turn(np.fft.irfft(comb, CYCLE), turns)


def _scrape(turns: np.ndarray, sharpness: float) -> np.ndarray:
    """A touch once a turn that fades as the turn goes on, mean square 1."""
    cycle = np.exp(-sharpness * np.arange(CYCLE) / CYCLE)
    return _each_turn(cycle / math.sqrt(np.mean(cycle**2)), turns)


def _each_turn(cycle: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """One turn's course, read off at every angle, linearly between its points."""
    place = turns * CYCLE
    cell = place.astype(np.int64)
    rest = place - cell
    cell &= CYCLE - 1
    return cycle[cell] + rest * (np.roll(cycle, -1) - cycle)[cell]


def _passes(turns: np.ndarray) -> np.ndarray:
    """Samples at which a rotation completes a turn."""
    return np.flatnonzero(np.diff(np.floor(turns)) > 0)


def _ring(
    samples: int, rate: int, at: np.ndarray, strength: np.ndarray, decay: float, *hertz: float
) -> np.ndarray:
    """Blows at samples `at`, heard through resonances that fall to 1/e within `decay` seconds."""
    time = np.arange(round(8 * decay * rate)) / rate
    body = sum((np.sin(2 * np.pi * pitch * time) for pitch in hertz), np.zeros(len(time)))
    body *= np.exp(-time / decay)
    sound = np.zeros(samples + len(body))
    for start, blow in zip(at.astype(int).tolist(), strength.tolist(), strict=True):
        if start < samples:
            sound[start : start + len(body)] += blow * body
    return sound[:samples]


def _level(rate: int, per_second: float, decay: float, resonances: int) -> float:
    """Factor that brings `_ring` of unit blows, so many a second, to a mean square near 1."""
    return math.sqrt(4 / (resonances * per_second * decay))


Sounds = tuple[np.ndarray, np.ndarray | None]  # the machine, mean square near 1; its fault's trace


def _fan(m: Moment) -> Sounds:
    """Blade passing and air flow; both grow with load, and the flow beats at blade rate."""
    shaft = (21.0, 25.5, 29.0)[m.section] * m.build.uniform(0.97, 1.03)
    blades = (5, 7, 6)[m.section]
    turns = _turns(m, shaft, 0.002)
    flow = _noise(m.now, m, 700 * m.build.uniform(0.8, 1.25), 1.5)
    flow *= 1 + 0.1 * _tones(turns * blades, m.build, 2, 6.0)
    sound = 0.5 * _decibels(2 * m.load) * _tones(turns * blades, m.build, 6, 5.0)
    sound += 0.75 * _decibels(1.5 * m.load) * flow + 0.2 * _tones(turns, m.build, 4, 4.0)
    match m.fault:
        case "imbalance":
            at = _passes(turns)
            blows = m.harm.uniform(0.4, 1.6, len(at)) * _level(m.rate, shaft, 0.004, 3)
            frame = _ring(m.samples, m.rate, at, blows, 0.004, 760, 1400, 2500)
            frame *= _swell(m.harm, m, 0.4, 0.6)
            return sound, 0.6 * _tones(turns, m.harm, 14, 1.5) + frame
        case "rubbing":
            contact = _scrape(turns, 8.0) * _swell(m.harm, m, 0.8, 0.7)
            return sound, contact * _noise(m.harm, m, 4800, 0.5)
        case "clogging":
            return sound, _swell(m.harm, m, 0.25, 0.8) * _noise(m.harm, m, 280, 0.6)
    return sound, None


def _pump(m: Moment) -> Sounds:
    """Vane passing, hum at twice the mains, flow in the housing, a healthy bearing's tones."""
    shaft = (24.3, 28.8, 33.0)[m.section] * m.build.uniform(0.98, 1.02)
    vanes = (6, 5, 7)[m.section]
    housing = 2600 * m.build.uniform(0.85, 1.3)  # Hz
    turns = _turns(m, shaft, 0.001)
    flow = _noise(m.now, m, 1100 * m.build.uniform(0.8, 1.25), 1.3)
    sound = 0.5 * _tones(turns * vanes, m.build, 8, 3.0) + 0.65 * _decibels(2 * m.load) * flow
    sound *= 1 + 0.15 * _tones(turns / m.build.integers(18, 30), m.build, 1, 0.0)  # pulsation
    sound += 0.4 * _tones(_mains(m), m.build, 5, 5.0)
    sound += 0.15 * _tones(turns * 3.57, m.build, 5, 3.0)
    match m.fault:
        case "bearing fault":
            at = _passes(turns * 3.57)
            pressed = 1 + 0.6 * np.cos(2 * np.pi * turns[at])  # hardest where the shaft bears down
            blows = pressed * m.harm.uniform(0.6, 1.4, len(at))
            wear = _swell(m.harm, m, 0.2, 0.2)  # how much metal each ball meets
            rung = _ring(
                m.samples, m.rate, at, blows, 0.0015, housing, 1.3 * housing, 1.6 * housing
            )
            return sound, wear * rung
        case "clogging":
            at = m.harm.random(round(300 * m.samples / m.rate)) * m.samples
            blows = m.harm.uniform(0.3, 1.7, len(at))
            bubbles = _ring(m.samples, m.rate, at, blows, 0.0003, 4500)
            return sound, _swell(m.harm, m, 0.3, 0.8) * bubbles
    return sound, None


def _slider(m: Moment) -> Sounds:
    """A carriage to and fro: the motor's whine follows its speed, thumps mark the reversals."""
    period = (1.7, 2.1, 2.6)[m.section] * m.build.uniform(0.95, 1.05)
    strokes = _turns(m, 1 / period, 0.01)
    speed = np.abs(np.tanh(3 * np.sin(2 * np.pi * strokes)))  # a ramp, then steady, then a ramp
    motor = np.cumsum(speed) * ((95, 120, 150)[m.section] * m.build.uniform(0.95, 1.05) / m.rate)
    rail = _noise(m.now, m, 1600 * m.build.uniform(0.8, 1.25), 1.2)
    at = _passes(2 * strokes)
    blows = m.now.uniform(0.7, 1.3, len(at)) * _level(m.rate, 2 / period, 0.03, 1)
    sound = 0.4 * _ring(m.samples, m.rate, at, blows, 0.03, 130 * m.build.uniform(0.8, 1.25))
    sound += 0.4 * _ring(m.samples, m.rate, at, blows, 0.012, 850 * m.build.uniform(0.8, 1.25))
    sound += speed * (0.6 * _decibels(1.5 * m.load) * _tones(motor, m.build, 9, 1.5) + 0.6 * rail)
    match m.fault:
        case "rubbing":
            pitch = 2100 / m.rate * (1 + 0.02 * _wander(m.harm, m, 0.05))
            squeal = _tones(np.cumsum(pitch), m.harm, 3, 6.0)
            return sound, speed * _swell(m.harm, m, 0.3, 0.9) * squeal
        case "loose part":
            after = np.repeat(at, 25) + m.harm.exponential(0.15 * m.rate, 25 * len(at))
            blows = m.harm.uniform(0.2, 1, len(after))
            return sound, _ring(m.samples, m.rate, after, blows, 0.0025, 1900, 3100, 4900)
    return sound, None


def _valve(m: Moment) -> Sounds:
    """A solenoid valve on its beat: it knocks open, hisses while open, knocks shut."""
    period = (0.62, 0.8, 1.05)[m.section] * m.build.uniform(0.95, 1.05)
    share = m.build.uniform(0.4, 0.55)  # of the cycle, open
    body = 2 ** m.build.uniform(9.8, 12.2, 4)  # Hz
    cycles = _turns(m, 1 / period, 0.01)
    opens, shuts = _passes(cycles), _passes(cycles + 1 - share)
    knocks = np.concatenate([opens, shuts])
    blows = np.concatenate([np.ones(len(opens)), np.full(len(shuts), 0.7)])
    blows *= m.now.uniform(0.75, 1.25, len(knocks)) * _level(m.rate, 2 / period, 0.012, 4)
    missing = m.harm.random(len(knocks)) < 0.1 + 0.4 * m.severity
    stuck = missing & (m.fault == "missing impacts")
    is_open = (cycles % 1) < share
    hiss = _noise(m.now, m, 2200 * m.build.uniform(0.8, 1.25), 0.9)
    coil = _mains(m)
    sound = 0.6 * _ring(m.samples, m.rate, knocks, blows * ~stuck, 0.012, *body)
    sound += 0.5 * _decibels(2 * m.load) * (0.25 + is_open) * hiss
    sound += 0.45 * _tones(coil, m.build, 4, 5.0)
    match m.fault:
        case "missing impacts":
            since = np.full(m.samples, np.inf)  # seconds since the plunger stuck
            for at in np.sort(knocks[stuck]):
                since[at:] = np.arange(m.samples - at) / m.rate
            return sound, np.exp(-since / 0.2) * _tones(coil, m.harm, 16, 0.5)
        case "clogging":
            return sound, ~is_open * _swell(m.harm, m, 0.06, 0.9) * _noise(m.harm, m, 4500, 0.9)
    return sound, None


def _toy_car(m: Moment) -> Sounds:
    """A small motor and its gears: a mesh tone with sidebands, wheels on the bench's rollers."""
    wheel = (6.2, 7.4, 8.6)[m.section] * m.build.uniform(0.97, 1.03)
    ratio, teeth = (14.0, 17.0, 12.0)[m.section], (11, 9, 13)[m.section]
    turns = _turns(m, wheel, 0.006)  # a battery holds its speed badly
    motor = turns * ratio
    mesh = _tones(motor * teeth, m.build, 4, 4.0) * (1 + 0.2 * _tones(motor, m.build, 1, 0.0))
    mesh *= _decibels(2 * m.load)
    grind = _noise(m.now, m, 1200 * m.build.uniform(0.8, 1.25), 1.6)
    sound = 0.55 * _tones(motor, m.build, 10, 2.0) + 0.4 * mesh + 0.65 * grind
    match m.fault:
        case "imbalance":
            pressed = np.maximum(_tones(turns, m.harm, 1, 0.0), 0) ** 3
            return sound, pressed * (mesh + grind)
        case "rubbing":
            touch = _scrape(turns, 6.0) * _swell(m.harm, m, 0.5, 0.6)
            return sound, touch * _noise(m.harm, m, 5000, 0.5)
        case "bearing fault":
            at = _passes(motor * 0.39)  # the cage: slower than the shaft
            blows = m.harm.uniform(0.5, 1.5, len(at))
            rung = _ring(m.samples, m.rate, at, blows, 0.0015, 3700, 4500, 5600)
            return sound, _swell(m.harm, m, 0.2, 0.2) * rung
    return sound, None


def _toy_conveyor(m: Moment) -> Sounds:
    """A belt on rattling rollers: random knocks on plastic, a motor, the seam once a round."""
    belt = (0.75, 0.9, 1.1)[m.section] * m.build.uniform(0.96, 1.04)
    turns = _turns(m, belt, 0.01)
    rollers = 2 ** m.build.uniform(9.0, 11.5, 3)  # Hz
    at = m.now.random(round(45 * m.samples / m.rate)) * m.samples
    blows = m.now.exponential(0.7, len(at)) * _level(m.rate, 45, 0.008, 3)
    seam = _passes(turns)
    thumps = np.full(len(seam), _level(m.rate, belt, 0.04, 1))
    sound = 0.5 * _ring(m.samples, m.rate, at, blows, 0.008, *rollers)
    sound += 0.35 * _ring(m.samples, m.rate, seam, thumps, 0.04, 180)
    sound += 0.5 * _decibels(2 * m.load) * _tones(turns * 64, m.build, 9, 2.5)
    sound += 0.6 * _noise(m.now, m, 1300 * m.build.uniform(0.8, 1.25), 1.4)  # belt on its bed
    match m.fault:
        case "loose part":
            at = m.harm.random(round(120 * m.samples / m.rate)) * m.samples
            blows = _swell(m.harm, m, 0.4, 0.8)[at.astype(int)] * m.harm.uniform(0.3, 1.7, len(at))
            return sound, _ring(m.samples, m.rate, at, blows, 0.002, 3600, 4900, 6400)
        case "rubbing":
            return sound, _scrape(turns, 4.0) * _noise(m.harm, m, 5200, 0.45)
    return sound, None


MACHINES: Mapping[str, Callable[[Moment], Sounds]] = MappingProxyType(
    {
        "fan": _fan,
        "pump": _pump,
        "slider": _slider,
        "valve": _valve,
        "ToyCar": _toy_car,
        "ToyConveyor": _toy_conveyor,
    }
)
