"""What constructors say to arguments that they do not take."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import math
import re
from collections.abc import Callable

import numpy
import pytest
import torch
from pytorch_metric_learning import distances as pml_distances
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import miners as pml_miners
from pytorch_metric_learning import reducers as pml_reducers

from fusedml import (
    CrossBatchMemory,
    MomentumQueue,
    distances,
    functional,
    losses,
    miners,
    reducers,
)
from fusedml.distributed import DistributedLoss, DistributedLossWrapper
from fusedml.engine.arguments import constructor_parameters
from fusedml.losses import LOSSES, MultiSimilarityLoss, SupConLoss, TripletMarginLoss
from tests.losses.made import NAMES, make_batch, make_loss

COMMON = (
    "distance, reducer, embedding_regularizer, embedding_reg_weight, collect_stats, backend, "
    "label_rule"
)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_keyword_of_a_loss(name: str) -> None:
    own = [
        key for key in LOSSES[name].hyperparameters if key in LOSSES[name].__init__.__annotations__
    ]
    for key in (*own, "distance", "backend"):
        if len(key) == 1:
            continue  # nothing is near it
        typo = key[0] + key[2:]  # no other argument is as near
        message = rf"{name} got an unexpected keyword argument '{typo}': did you mean '{key}'\?"
        with pytest.raises(TypeError, match=message) as raised:
            make_loss(name, **{typo: 1})
        assert str(raised.value).endswith(f"{COMMON})")
        assert all(argument in str(raised.value) for argument in own)


def test_unknown_keyword_of_a_subclass() -> None:
    class Mine(SupConLoss):
        def __init__(self, size: int, **kwargs: float) -> None:
            super().__init__(**kwargs)

    with pytest.raises(
        TypeError, match=r"Mine got .* mean 'temperature'. .its arguments are size, t"
    ):
        Mine(3, temp=1)


@pytest.mark.parametrize(
    "name", ["BaseDistance", "LpDistance", "DotProductSimilarity", "CosineSimilarity"]
)
def test_unknown_keyword_of_a_distance(name: str) -> None:
    cls = getattr(distances, name)
    with pytest.raises(TypeError, match=f"{name} got .* 'nomalize': did you mean 'normalize_emb"):
        cls(nomalize=True)


OTHERS = [
    *losses.TWO_TOWER_LOSSES.values(),
    *losses.DISTILLATION_LOSSES.values(),
    *(getattr(reducers, name) for name in vars(pml_reducers) if name.endswith("Reducer")),
    *(CrossBatchMemory, MomentumQueue, DistributedLoss, DistributedLossWrapper),
]


@pytest.mark.parametrize("cls", OTHERS, ids=lambda cls: cls.__name__)
def test_unknown_keyword_of_others(cls: type) -> None:
    keys = [*inspect.signature(cls.__init__).parameters][1:]
    for key in keys:
        typo = key[0] + key[2:]
        message = rf"{cls.__name__} got .* '{typo}': did you mean '{key}'\? .*{', '.join(keys)}\)"
        with pytest.raises(TypeError, match=message):
            cls(**{typo: 1})


def test_a_constructor_that_takes_any_keyword() -> None:
    class Mine(reducers.MeanReducer):
        def __init__(self, **kwargs: float) -> None:
            self.factor = kwargs.pop("factor", 1)
            super().__init__(**kwargs)

    assert Mine(factor=3).factor == 3
    with pytest.raises(TypeError, match="unexpected keyword argument 'factr'"):
        Mine(factr=3)


def test_nothing_near() -> None:
    with pytest.raises(
        TypeError, match=r"MultiSimilarityLoss got .* 'zzz' \(its arguments are alpha"
    ):
        MultiSimilarityLoss(zzz=1)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", NAMES)
def test_reduction_is_a_reducer(name: str, reduction: str) -> None:
    with pytest.raises(
        TypeError, match=f"only the functions take reduction='{reduction}'"
    ) as raised:
        make_loss(name, reduction=reduction)
    if reduction == "none":
        return
    (advice,) = re.findall(r"write reducer=fusedml\.reducers\.(\w+)\(\)", str(raised.value))
    embeddings, labels = make_batch()
    loss = make_loss("MultiSimilarityLoss", reducer=getattr(reducers, advice)())
    expected = functional.multi_similarity_loss(embeddings, labels, reduction=reduction)
    torch.testing.assert_close(loss(embeddings, labels), expected)


BAD_OBJECTS = {
    "distance": {
        "cosine": "got 'cosine': write distance=CosineSimilarity()",
        "Dot": "got 'Dot': write distance=DotProductSimilarity()",
        "l2": "got 'l2': such as distance=CosineSimilarity(), distance=DotProductSimilarity(), ",
        distances.LpDistance: "got the class LpDistance: write distance=LpDistance()",
        pml_distances.SNRDistance: "got the class SNRDistance: write distance=SNRDistance()",
        5: "got 5: such as distance=CosineSimilarity()",
        torch.cdist: "distance must have an attribute is_inverted",
    },
    "reducer": {
        "mean": "got 'mean': write reducer=MeanReducer()",
        "sum": "got 'sum': write reducer=SumReducer()",
        reducers.MeanReducer: "got the class MeanReducer: write reducer=MeanReducer()",
        pml_reducers.ThresholdReducer: "got the class ThresholdReducer: write reducer=Threshold",
        2.0: "got 2.0: such as reducer=MeanReducer(), reducer=SumReducer()",
        torch.mean: "reducer must be an object that takes losses, embeddings and labels, got <",
        abs: "got <built-in function abs>: such as reducer=MeanReducer()",
    },
    "embedding_regularizer": {
        "l2": "embedding_regularizer must be an object that can be called, got 'l2'",
        torch.nn.Identity: "got the class Identity: write embedding_regularizer=Identity()",
    },
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [(argument, *item) for argument, values in BAD_OBJECTS.items() for item in values.items()],
)
def test_no_object(name: str, argument: str, value: object, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        make_loss(name, **{argument: value})


def test_no_object_of_a_function() -> None:
    embeddings, labels = make_batch()
    for value, message in BAD_OBJECTS["distance"].items():
        with pytest.raises(TypeError, match=re.escape(message)):
            functional.sup_con_loss(embeddings, labels, distance=value)


def test_a_function_as_a_reducer() -> None:
    embeddings, labels = make_batch()
    given = []
    loss = SupConLoss(reducer=lambda *args: given.append(args) or embeddings.sum())
    assert torch.equal(loss(embeddings, labels), embeddings.sum())
    assert len(given[0]) == 3


@pytest.mark.parametrize("name", functional.FUNCTIONS)
def test_unknown_keyword_of_a_function(name: str) -> None:
    function = functional.FUNCTIONS[name]
    tensors = [torch.eye(3)] * (2 if function.__name__ == "info_nce_loss" else 3)
    message = rf"{function.__name__} got an unexpected keyword argument '.*'.* mean 'backend'\?"
    with pytest.raises(TypeError, match=message):
        function(*tensors, bakend="auto")


def test_missing_arguments_of_a_function() -> None:
    with pytest.raises(TypeError, match=r"clip_loss\(\) missing .* 'logit_scale'"):
        functional.clip_loss(torch.eye(3), torch.eye(3))


def test_no_reducer_later() -> None:
    with pytest.raises(TypeError, match=r"reducer must be an object .* got 'mean'"):
        SupConLoss().set_reducer("mean")


CLASS_LOSSES = [name for name in NAMES if LOSSES[name].weights_name is not None]
NO_COUNTS = {0: ValueError, -1: ValueError, 6.0: TypeError, "6": TypeError, True: TypeError}


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_sizes_of_a_loss_are_whole_numbers(name: str) -> None:
    loss = LOSSES[name]
    sizes = {**loss.needed_arguments(4, 3), "num_classes": 4}
    if loss.vectors_per_class_name is not None:
        sizes[loss.vectors_per_class_name] = 2
    loss(**sizes)
    loss(**{key: torch.tensor(size) for key, size in sizes.items()})  # as numbers of NumPy
    for key in sizes:
        for wrong, error in NO_COUNTS.items():
            if wrong is True or error is ValueError:
                message = f"{key} must be .*at least 1, got {wrong}"
            else:
                message = f"{key} must be a whole number of at least 1, got {wrong!r}, "
            with pytest.raises(error, match=message):
                loss(**{**sizes, key: wrong})


def _memory(**sizes: object) -> object:
    sizes = {"embedding_size": 3, "memory_size": 4, **sizes}
    return CrossBatchMemory(SupConLoss(), **sizes)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (functools.partial(losses.MarginLoss, learn_beta=True), "num_classes"),
        (functools.partial(DistributedLoss, losses.ArcFaceLoss(4, 3)), "num_classes"),
        *((_memory, key) for key in ("embedding_size", "memory_size", "num_classes")),
        *(
            (miners.UniformHistogramMiner, key)
            for key in ("num_bins", "pos_per_bin", "neg_per_bin", "max_listed")
        ),
        *(
            (functools.partial(miners.MaximumLossMiner, SupConLoss()), key)
            for key in ("output_batch_size", "num_trials")
        ),
    ],
)
def test_counts_are_whole_numbers(make: Callable[..., object], key: str) -> None:
    least = 0 if key == "max_listed" else 1
    make(**{key: least})
    for wrong in (least - 1, 2.0, "2", True):
        with pytest.raises((TypeError, ValueError), match=f"{key} must be .*at least {least}, got"):
            make(**{key: wrong})


@pytest.mark.parametrize(
    ("cls", "key"),
    [
        (miners.MultiSimilarityMiner, "epsilon"),
        (miners.TripletMarginMiner, "margin"),
        (miners.PairMarginMiner, "pos_margin"),
        (miners.PairMarginMiner, "neg_margin"),
        (miners.AngularMiner, "angle"),
        (miners.HDCMiner, "filter_percentage"),
        (miners.DistanceWeightedMiner, "cutoff"),
        (miners.DistanceWeightedMiner, "nonzero_loss_cutoff"),
        (reducers.ThresholdReducer, "low"),
        (reducers.ThresholdReducer, "high"),
        (distances.LpDistance, "p"),
        (distances.LpDistance, "power"),
        (distances.SNRDistance, "power"),
    ],
)
def test_numbers_are_numbers(cls: type, key: str) -> None:
    for right in (1, 0.5, torch.tensor(0.5)):
        cls(**{key: right})
    for wrong, error in (("x", TypeError), ([0.5], TypeError), (math.nan, ValueError)):
        with pytest.raises(error, match=f"{key} must be a number, got"):
            cls(**{key: wrong})


@pytest.mark.parametrize("key", ["allowed_pos_range", "allowed_neg_range"])
def test_ranges_of_a_miner_are_two_numbers(key: str) -> None:
    for right in (None, (0, 1.5), [0.1, 0.2]):
        miners.BatchEasyHardMiner(**{key: right})
    for wrong in (1.0, "ab", (0.1,), (0.1, "x")):
        with pytest.raises(TypeError, match=f"{key} must be "):
            miners.BatchEasyHardMiner(**{key: wrong})


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [([1.0], TypeError, "be a tensor, got list"), (torch.ones(2, 3), ValueError, "got .2, 3.")],
)
def test_weights_of_a_reducer_are_a_vector(weights, error, message) -> None:
    with pytest.raises(error, match=f"weights must .*{message}"):
        reducers.ClassWeightedReducer(weights)


@pytest.mark.parametrize(
    ("module", "shown"),
    [
        (miners.MultiSimilarityMiner(), "epsilon=0.1"),
        (miners.BatchEasyHardMiner("hard"), "pos_strategy='hard', neg_strategy='semihard'"),
        (miners.TripletMarginMiner(0.3), "margin=0.3, type_of_triplets='all'"),
        (reducers.ThresholdReducer(low=0.1), "low=0.1"),
        (reducers.AvgNonZeroReducer(), ""),
        (distances.LpDistance(p=1, power=2), "p=1, power=2"),
        (distances.CosineSimilarity(), ""),
        (
            distances.DotProductSimilarity(normalize_embeddings=False),
            "normalize_embeddings=False",
        ),
        (losses.TripletMarginLoss(mining="semihard"), "margin=0.05, mining='semihard'"),
        (losses.TripletMarginLoss(swap=True), "margin=0.05, swap=True"),
        (losses.FastAPLoss(7), "num_bins=7"),
        (losses.SphereFaceLoss(6, 8), "scale=1.0, margin=4"),
        (
            SupConLoss(backend="torch", label_rule="all"),
            "temperature=0.1, backend='torch', label_rule='all'",
        ),
        (losses.InfoNCELoss(0.5), "temperature=0.5"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_a_printed_module_shows_its_arguments(module: torch.nn.Module, shown: str) -> None:
    assert module.extra_repr() == shown
    assert shown in repr(module)


@pytest.mark.parametrize(
    ("module", "name", "meant"),
    [
        (distances, "CosineDistance", "CosineSimilarity"),
        (functional, "supcon_loss", "sup_con_loss"),
        (functional, "multi_similarity", "multi_similarity_loss"),
    ],
)
def test_the_nearest_name(module, name: str, meant: str) -> None:
    with pytest.raises(AttributeError, match=rf"no attribute '{name}': did you mean '{meant}'\?"):
        getattr(module, name)


def test_a_class_is_no_function() -> None:
    with pytest.raises(AttributeError, match=r"write fusedml\.losses\.SupConLoss$"):
        functional.SupConLoss  # noqa: B018


EVERY_CLASS = [
    *LOSSES.values(),
    *OTHERS,
    *(getattr(miners, name) for name in dir(miners) if name.endswith("Miner")),
    *(distances.LpDistance, distances.DotProductSimilarity, distances.CosineSimilarity),
    distances.SNRDistance,
]
# values of the arguments that have no default
GIVEN = {
    "num_classes": 6,
    "embedding_size": 8,
    "descriptors_dim": 8,
    "margin": 0.3,
    "Tn": 3,
    "memory_size": 32,
    "queue_size": 32,
    "weights": torch.ones(6),
    "reducers": {},
    "loss": SupConLoss(),
    "target_losses": [SupConLoss()],
    "threshold": 0.5,
}
WRONG = ("a", [1], {"a": 1}, torch.nn.Linear, torch.ones(2), object(), 2 + 1j)
# what is open_clip's and means nothing here; and a process group, which PyTorch looks at
TAKE_ANYTHING = ("dist_impl", "group")
VECTORS = {("ClassWeightedReducer", "weights"), ("MarginLoss", "beta")}


def _cases() -> list[tuple[type, str]]:
    return [
        (cls, name)
        for cls in EVERY_CLASS
        if not inspect.isabstract(cls) and not cls.__name__.startswith("Base")
        for name in constructor_parameters(cls)
        if name not in TAKE_ANYTHING
    ]


def _construct(cls: type, **arguments: object) -> object:
    parameters = constructor_parameters(cls)
    needed = [name for name, one in parameters.items() if one.default is one.empty]
    if cls is reducers.ThresholdReducer:
        needed.append("low")
    if "descriptors_dim" in needed:  # another name of the same
        needed.remove("embedding_size")
    given = {"low": 0, **GIVEN}
    if cls is MomentumQueue:
        given["loss"] = losses.InfoNCELoss()
    return cls(**{**{name: given[name] for name in needed}, **arguments})


@pytest.mark.parametrize(
    ("cls", "name"), _cases(), ids=[f"{cls.__name__}-{name}" for cls, name in _cases()]
)
def test_every_argument_is_looked_at(cls: type, name: str) -> None:
    """What is no number, no flag, no word or no object is refused by name, and not used as one."""
    _construct(cls)
    for wrong in WRONG:
        if isinstance(wrong, torch.Tensor) and (cls.__name__, name) in VECTORS:
            continue
        with pytest.raises((TypeError, ValueError)) as raised:
            _construct(cls, **{name: wrong})
        assert re.search(rf"\b{name}\b", str(raised.value)), raised.value


@pytest.mark.parametrize("right", [True, False, None, 1, 0, numpy.True_, numpy.False_])
def test_flags(right: object) -> None:
    assert TripletMarginLoss(swap=right).swap is bool(right)
    assert reducers.MeanReducer(collect_stats=right).collect_stats is bool(right)
    for wrong in (2, 1.0, "False", "no", torch.tensor(1)):
        with pytest.raises(TypeError, match="swap must be True or False, got "):
            TripletMarginLoss(swap=wrong)


@pytest.mark.parametrize(
    ("name", "key"), [("FastAPLoss", "num_bins"), ("SphereFaceLoss", "margin")]
)
def test_the_whole_part_of_a_number(name: str, key: str) -> None:
    for right in (7, 7.0, 7.9, torch.tensor(7)):  # as pytorch-metric-learning takes it
        assert getattr(make_loss(name, **{key: right}), key) == 7
    for wrong in (0, 0.9, math.inf, math.nan):
        with pytest.raises((TypeError, ValueError), match=f"{key} must be .* got (0|inf|nan)"):
            make_loss(name, **{key: wrong})


@pytest.mark.parametrize("argument", ["reducer", "default_reducer", "reducers['loss']"])
@pytest.mark.parametrize(
    "wrong",
    [
        distances.CosineSimilarity(),
        pml_distances.LpDistance(),
        SupConLoss(),
        pml_losses.NTXentLoss(),
        miners.TripletMarginMiner(),
        pml_miners.MultiSimilarityMiner(),
        torch.nn.Identity(),
    ],
    ids=lambda x: f"{type(x).__module__}.{type(x).__name__}",
)
def test_what_is_no_reducer(argument: str, wrong: torch.nn.Module) -> None:
    message = re.escape(f"{argument} must be an object that takes losses, embeddings and labels")
    with pytest.raises(TypeError, match=message):
        if argument == "reducer":
            SupConLoss(reducer=wrong)
        elif argument == "default_reducer":
            reducers.MultipleReducers({}, wrong)
        else:
            reducers.MultipleReducers({"loss": wrong})
    if argument == "reducer":
        with pytest.raises(TypeError, match=message):
            reducers.PerAnchorReducer(wrong)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            miners.TripletMarginMiner(),
            "no tuple but TripletMarginMiner: write miner(embedd",
        ),
        (lambda *_: None, "no tuple but function: write miner(embeddings, labels)"),
        (miners.HDCMiner, "the class HDCMiner: write HDCMiner(...)(embeddings, labels)"),
        ("hard", "no tuple but str"),
        (5, "no tuple but int"),
    ],
)
def test_a_miner_in_the_place_of_its_tuple(name: str, wrong: object, message: str) -> None:
    loss = make_loss(name)
    if not loss.takes_tuples:
        message = "indices_tuple is not supported"
    with pytest.raises(ValueError, match=re.escape(message)):
        loss(*make_batch(), wrong)


@pytest.mark.parametrize("base", [distances.LpDistance, pml_distances.CosineSimilarity])
@pytest.mark.parametrize("owner", [TripletMarginLoss, SupConLoss, miners.TripletMarginMiner])
def test_a_margin_of_the_distances_own(owner: type, base: type) -> None:
    class Doubled(base):
        def margin(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return 2 * super().margin(x, y)

    of_object = base()
    of_object.margin = lambda x, y: 2 * (x - y)
    for distance in (Doubled(), of_object):
        with pytest.raises(TypeError, match="distance must not override margin, which is never"):
            owner(distance=distance)
    owner(distance=base())


@pytest.mark.parametrize(
    ("called", "typo", "meant"),
    [
        (SupConLoss(), "ref_embs", "ref_emb"),
        (TripletMarginLoss(), "indices", "indices_tuple"),
        (losses.ArcFaceLoss(6, 8), "label", "labels"),
        (miners.TripletMarginMiner(), "ref_label", "ref_labels"),
        (CrossBatchMemory(SupConLoss(), 8), "enque_mask", "enqueue_mask"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_unknown_keyword_of_a_call(called: torch.nn.Module, typo: str, meant: str) -> None:
    message = f"{type(called).__name__} got an unexpected keyword argument '{typo}': did you mean "
    with pytest.raises(TypeError, match=rf"{message}'{meant}'\? \(its arguments are embeddings, "):
        called(*make_batch(), **{typo: None})


def test_what_a_memory_is_made_of_and_called_with() -> None:
    with pytest.raises(TypeError, match="miner must make index tuples, got SupConLoss, a loss"):
        CrossBatchMemory(SupConLoss(), 8, miner=SupConLoss())
    with pytest.raises(TypeError, match=r"got the class InfoNCELoss: write loss=InfoNCELoss\(\)"):
        MomentumQueue(losses.InfoNCELoss, 8)
    with pytest.raises(TypeError, match="enqueue_mask must be a tensor, got list: write "):
        CrossBatchMemory(SupConLoss(), 8)(*make_batch(), enqueue_mask=[True] * 20)


@pytest.mark.parametrize(
    ("module", "hint"),
    [
        ("fusedml.samplers", "pytorch_metric_learning.samplers works beside fusedml"),
        ("fusedml.utils.inference", "pytorch_metric_learning.utils works beside fusedml"),
        ("fusedml.losses.ntxent_loss", "its classes are in fusedml.losses"),
        ("fusedml.miners.hdc_miner", "its classes are in fusedml.miners"),
    ],
)
def test_modules_of_theirs(module: str, hint: str) -> None:
    with pytest.raises(ModuleNotFoundError, match=rf"No module named 'fusedml\..*': {hint}"):
        importlib.import_module(module)


def test_other_modules_that_are_not_there() -> None:
    for module in ("fusedml.nothing", "numpy.nothing", "no_such_package"):
        with pytest.raises(ModuleNotFoundError, match=f"No module named '{module}'$"):
            importlib.import_module(module)
    assert importlib.util.find_spec("fusedml.nothing") is None
