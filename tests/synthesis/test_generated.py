"""Generated banks: what is in them, that they are the same after a kill, and that a collapse is seen and answered."""

import dataclasses

import numpy as np
import pytest
import synthesis_fakes
import torch

import pocketvit
import pocketvit.synthesis.generation as generation
from pocketvit.errors import PocketError
from pocketvit.road.synthesize import bank_folder
from pocketvit.settings import Synthesize
from pocketvit.sources import open_images
from pocketvit.synthesis import GenerationConfig, Priors, generate_bank, open_bank
from pocketvit.synthesis.bank import near_duplicates, thumbnails
from pocketvit.synthesis.collapse import health
from pocketvit.synthesis.contest import Contest
from pocketvit.synthesis.generator import make_generator
from pocketvit.synthesis.inversion import balanced_labels
from pocketvit.synthesis.memory import Memory
from pocketvit.synthesis.methods import Request, bank_cost, words
from pocketvit.synthesis.pupil import Pupil
from pocketvit.synthesis.seen import likely, seen
from pocketvit.synthesis.shards import Shards

QUIET = {"progress": False}
SHORT = GenerationConfig(60, rounds=5, steps=3, replays=1, batch=24, rate=1e-2)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    teacher = synthesis_fakes.teacher_of(synthesis_fakes.colour_network())
    return generate_bank(tmp_path_factory.mktemp("made") / "bank", teacher, SHORT, **QUIET)


def same(one, other):
    for name in ("images", "logits", "origin"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_generated_bank_is_balanced_confirmed_and_without_near_duplicates(made, teacher):
    answers = made.logits.argmax(1)
    assert np.bincount(answers, minlength=3).tolist() == [20, 20, 20]
    assert made.probabilities.max(1).min() >= 0.5
    pixels = torch.from_numpy(np.ascontiguousarray(made.images.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(made.logits, seen(teacher, pixels).numpy(), rtol=1e-2, atol=1e-2)
    assert not near_duplicates(thumbnails(pixels.numpy()), answers).any()
    assert set(made.origin.tolist()) == {0, 1}


def test_it_is_an_ordinary_source_that_says_what_it_is(made):
    assert open_images(made.file, progress=False).synthetic.startswith("data-free: no real image")
    assert len(made.dataset().train) == 60
    said = " ".join(words(made))
    for expected in ("moments of 2 BatchNorm layers", "pictures looked at", "0 alarms of a generator that collapsed"):
        assert expected in said
    assert sorted(path.name for path in made.folder.iterdir()) == ["bank.json", "images.npz"]


def test_the_same_seed_makes_the_same_bank_and_another_one_another(made, teacher, tmp_path):
    same(made, generate_bank(tmp_path / "again", teacher, SHORT, **QUIET))
    other = generate_bank(tmp_path / "other", teacher, dataclasses.replace(SHORT, seed=1), **QUIET)
    assert not np.array_equal(made.images, other.images)


@pytest.mark.parametrize("place", ["_replay", "_save"])
def test_a_killed_generator_goes_on_to_the_same_bank(place, made, teacher, tmp_path, monkeypatch):
    real, calls = getattr(generation._Making, place), []

    def killed(self):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(generation._Making, place, killed)
    with pytest.raises(KeyboardInterrupt):
        generate_bank(tmp_path / "bank", teacher, SHORT, **QUIET)
    with pytest.raises(PocketError, match="is not finished"):
        open_bank(tmp_path / "bank")
    assert (tmp_path / "bank" / "generated-000003.npz").exists()  # a round that is not over: it is made once more
    same(made, generate_bank(tmp_path / "bank", teacher, SHORT, **QUIET))
    with pytest.raises(PocketError, match=r"asked for otherwise \(config\.rounds: 5 there, 9 here\)"):
        generate_bank(tmp_path / "bank", teacher, dataclasses.replace(SHORT, rounds=9), **QUIET)


def test_a_broken_state_is_told_and_can_be_removed(made, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(generation._Making, "_finish", lambda self: None)
    generate_bank(tmp_path / "bank", teacher, dataclasses.replace(SHORT, rounds=2), **QUIET)
    state = tmp_path / "bank" / generation.STATE
    state.write_bytes(b"not a state")
    with pytest.raises(PocketError, match=r"state.safetensors is not a readable checkpoint.*Remove it to start again"):
        generate_bank(tmp_path / "bank", teacher, dataclasses.replace(SHORT, rounds=2), **QUIET)


def test_a_collapsed_generator_is_seen_told_and_begun_anew(teacher, tmp_path, monkeypatch, caplog):
    """Its first layers are made to give the same whatever they are given: so is every picture."""
    caplog.set_level("WARNING", "pocketvit")
    started = generation.Contest.__init__

    def collapsed(self, *arguments):
        started(self, *arguments)
        for network in (self.generator, self.average.module):
            for weight in (*network.style.parameters(), *network.start.parameters(), *network.scatter.parameters()):
                weight.data.zero_()

    monkeypatch.setattr(generation.Contest, "__init__", collapsed)
    config = dataclasses.replace(SHORT, patience=0, rate=1e-12)
    bank = generate_bank(tmp_path / "bank", teacher, config, **QUIET)
    first = next(record.getMessage() for record in caplog.records if record.getMessage().startswith("alarm"))
    assert "round 1 of 5" in first
    assert "of new pictures are near duplicates" in first
    assert "begin anew" in first
    assert bank.provenance["made"]["alarms"] >= 1
    # At this rate nothing is learned: only the new layers can have made pictures that differ.
    assert not any("near duplicates" in message for message in caplog.messages[1:])


@pytest.mark.parametrize(("rounds", "renewed"), [(5, [1]), (7, [1, 3])])
def test_the_generator_begins_anew_by_plan_while_time_is_left_to_learn(rounds, renewed, teacher, tmp_path, monkeypatch):
    numbers = []
    monkeypatch.setattr(generation.Contest, "renew", lambda self, number: numbers.append(number))
    monkeypatch.setattr(generation.Contest, "step", lambda self, *_: torch.zeros(()))
    config = dataclasses.replace(SHORT, rounds=rounds, renewal=2, patience=2, replays=0, confidence=0.0)
    generate_bank(tmp_path / "bank", teacher, config, **QUIET)
    assert numbers == renewed


def test_alarms_tell_a_few_classes_one_class_and_one_picture_apart():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (100, 3, 8, 8), np.uint8)
    targets = np.arange(100) % 10
    sure = np.eye(10)
    assert health(images, sure[targets], targets).alarms == []
    assert any("near duplicates" in line for line in health(images[:1].repeat(100, 0), sure[targets], targets).alarms)
    assert any("spread over the classes to" in line for line in health(images, sure[targets % 4], targets).alarms)
    leaning = np.where(random.random(100) < 0.4, 7, targets)
    assert any("class 7 takes" in line for line in health(images, sure[leaning], targets).alarms)


def test_the_memory_keeps_the_newest_of_each_class_and_follows_from_its_shards(tmp_path):
    random = np.random.default_rng(0)
    shards, quota = Shards(tmp_path, "generated"), np.array([2, 2, 0])
    memory = Memory(shards, quota)
    for number in range(3):
        images = random.integers(0, 256, (3, 3, 8, 8), np.uint8)
        assert not memory.alike(images, np.array([0, 0, 2])).any()
        shards.write(number, images=images, targets=np.array([0, 0, 2]))
        memory.take(number)
        assert memory.alike(images, np.array([0, 0, 1])).tolist() == [True, True, False]
    assert memory.held.tolist() == [2, 0, 0]
    assert {number: rows.tolist() for number, rows in memory.rows().items()} == {2: [0, 1]}
    again = Memory(shards, quota, 3)
    draw = [one.sample(5, torch.Generator().manual_seed(0)) for one in (memory, again)]
    torch.testing.assert_close(*draw, rtol=0, atol=0)
    assert Memory(shards, quota, 2).rows().keys() == {1}


@pytest.mark.parametrize("network", ["conv", "transformer"])
@pytest.mark.parametrize("size", [28, 33, 224])
def test_a_generator_makes_pictures_of_the_size_that_differ_by_noise_and_by_class(network, size):
    torch.manual_seed(0)
    generator = make_generator(network, 1000, size)
    noise = torch.randn(2, generator.noise)
    with torch.no_grad():
        one, other = generator(noise, torch.tensor([3, 3])), generator(noise, torch.tensor([999, 3]))
    assert one.shape == (2, 3, size, size)
    assert one.min() >= 0
    assert one.max() <= 1
    assert (one[0] - one[1]).abs().max() > 1e-3
    assert (one[0] - other[0]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["conv", "transformer"])
def test_a_generator_learns_what_the_teacher_is_sure_of(kind, teacher):
    config = dataclasses.replace(SHORT, network=kind, batch=12)
    targets, _ = balanced_labels(0, 0, 60, 3)
    with Priors(teacher, config.priors) as priors:
        contest = Contest(teacher, priors, config)

        def right():
            images, _ = contest.harvest(targets, 0)
            chances = likely("softmax", seen(teacher, torch.from_numpy(images)).numpy())
            return chances[np.arange(60), targets].mean()

        before = right()
        for number in range(25):
            contest.step(number, 0.0)
        assert right() > max(0.7, before + 0.2)


def test_the_adversary_asks_for_pictures_that_the_student_gets_less_right(monkeypatch):
    """Only where both see the wanted class, and no further than a student that knows nothing."""
    pupil, targets = Pupil("softmax", 3), torch.tensor([0, 1])
    images, sure = torch.rand(2, 3, 16, 16), torch.tensor([[9.0, 0, 0], [9.0, 0, 0]])
    monkeypatch.setattr(Pupil, "forward", lambda *_: torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]))
    far = pupil.surprised(images, sure, targets)
    assert 0 < far <= np.log(3) / 2  # the second picture is not of its class
    monkeypatch.setattr(Pupil, "forward", lambda *_: torch.tensor([[9.0, 0, 0], [0, 1.0, 0]]))
    assert pupil.surprised(images, sure, targets) < 1e-3


def test_several_labels_and_the_attention_network_go_the_same_way(network, tmp_path):
    teacher = synthesis_fakes.teacher_of(network).with_kind("sigmoid")
    config = dataclasses.replace(SHORT, network="transformer", rounds=4, turnover=3)
    bank = generate_bank(tmp_path / "bank", teacher, config, **QUIET)
    assert bank.kind == "sigmoid"
    assert bank.probabilities.max(1).min() >= 0.5


def test_classes_that_lack_pictures_get_rounds_of_their_own_and_are_named(teacher, tmp_path, caplog):
    caplog.set_level("WARNING", "pocketvit")
    config = dataclasses.replace(SHORT, images=600, rounds=2, turnover=0.5)
    bank = generate_bank(tmp_path / "bank", teacher, config, **QUIET)
    assert len(bank) < 600
    assert bank.provenance["made"]["looked_at"] == 3 * config.harvest(16)  # one more than asked for
    assert "classes have fewer images than asked for: " in caplog.text


def test_a_generator_for_which_nothing_is_confirmed_is_told(teacher, tmp_path):
    with pytest.raises(PocketError, match=r"not one is confidently of its class\. Choose pictures instead"):
        generate_bank(tmp_path / "bank", teacher, dataclasses.replace(SHORT, rounds=1, confidence=1.1), **QUIET)


def test_a_loss_that_is_not_finite_is_told(teacher, tmp_path, monkeypatch):
    real = generation.Contest.step
    monkeypatch.setattr(generation.Contest, "step", lambda self, *given: real(self, *given) * torch.nan)
    with pytest.raises(PocketError, match=r"no longer finite in round 1: gradients of ColourNet overflow"):
        generate_bank(tmp_path / "bank", teacher, SHORT, **QUIET)


def test_the_verb_makes_it_and_its_plan_says_what_it_costs(network, tmp_path):
    options = {"teacher": network, "teacher_size": 16, "teacher_norm": "none", "method": "generated", "count": 30}
    plan = pocketvit.synthesize(**options, plan=True, out=tmp_path)
    assert plan.data["seconds"] > 0
    assert plan.data["bytes"] > 30 * 3 * 16**2


def test_banks_of_other_methods_keep_their_folders_whatever_generator_is_named(teacher, tmp_path):
    named = {
        (method, network): bank_folder(tmp_path, teacher, Request(method, 30, generator=network))
        for method in ("drawn", "generated")
        for network in ("conv", "transformer")
    }
    assert named["drawn", "conv"] == named["drawn", "transformer"]
    assert len(set(named.values())) == 3


def test_the_largest_seed_numbers_batches_too():
    labels, _ = balanced_labels(2**63 - 1, 6, 6, 3)
    assert sorted(labels.tolist()) == [0, 0, 1, 1, 2, 2]


def test_what_cannot_be_is_refused(teacher, tmp_path):
    few = open_images((np.zeros((5, 20, 20, 3), np.uint8), None), val_fraction=0)
    with pytest.raises(PocketError, match="--method generated begins with noise and takes no --data"):
        Request("generated", data=few.train)
    with pytest.raises(PocketError, match=r"--generator transformer: other methods have none\. Add --method generated"):
        Synthesize(teacher="a", generator="transformer")
    with pytest.raises(PocketError, match="each must be at least 1"):
        GenerationConfig(rounds=0)
    costs = [bank_cost(teacher, Request(method, 1000)) for method in ("drawn", "generated")]
    assert costs[0][0] < costs[1][0]
