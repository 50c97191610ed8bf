from __future__ import annotations

import contextlib
import functools
import sys
import weakref
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from torch.nn.functional import cross_entropy

from benchmarks import chunked, peers
from benchmarks.cases import Case, UnavailableError, make_problem
from benchmarks.harness import check, relative_errors
from benchmarks.memory import run_step
from benchmarks.modules import module_of
from benchmarks.providers import (
    ANYWHERE,
    CHECKPOINT,
    COMPILED,
    CROSS_ENTROPY,
    CUT,
    GRADIENT_IN_FORWARD,
    INF_CL,
    PML,
    PROVIDERS,
    SENTENCE_TRANSFORMERS,
    bare_products,
    dense_autograd,
    dense_compiled,
)
from fusedml.distances import fused_measure
from fusedml.engine import few_positives, whole
from fusedml.engine.routes.fused import FusedPairs
from fusedml.losses import DISTILLATION_LOSSES, LOSSES, TWO_TOWER_LOSSES, BaseLoss

EAGER = [name for name in ANYWHERE if name not in (COMPILED, CROSS_ENTROPY)]
TAKING_REFERENCES = [name for name, loss in LOSSES.items() if loss.takes_references]


@pytest.fixture(autouse=True)
def _several_blocks(monkeypatch):
    # 17 rows of 90 a block: a last block that is cut short
    monkeypatch.setitem(chunked.BLOCK_ELEMENTS, "cpu", 90 * 17)


def asks_for_pairs(loss, monkeypatch):
    """Whether the loss is a formula on pairs that it has made for it."""
    asked = []

    def pairs_of(*arguments):
        asked.append(arguments)
        raise UnavailableError

    with monkeypatch.context() as patch, contextlib.suppress(UnavailableError):
        patch.setattr(BaseLoss, "pairs_of", pairs_of)
        case = Case(loss, n=90, d=24, num_classes=50)
        dense_autograd(case, make_problem(case))()
    return bool(asked)


def has_fused_distance(loss):
    case = Case(loss, n=90, d=24, num_classes=50)
    return fused_measure(module_of(case, make_problem(case)).distance) is not None


def refusal_of(loss, provider, monkeypatch):
    """What the provider says to a loss that it cannot compute; None if it can."""
    if provider == PML and not hasattr(pml_losses, loss):
        return f"not offered: has no {loss}"
    if provider == PML and not getattr(LOSSES.get(loss), "agrees_with_pml", True):
        return "not offered: computes something else"
    if provider in (CHECKPOINT, GRADIENT_IN_FORWARD) and not has_fused_distance(loss):
        return "not offered: its distance is made of other embeddings"
    if provider in (CHECKPOINT, GRADIENT_IN_FORWARD) and not asks_for_pairs(loss, monkeypatch):
        return "not offered: is computed without these pairs"
    if provider != GRADIENT_IN_FORWARD:
        return None
    # the gradient is known in the forward only of what is made of each row's statistics
    asked = []

    def refusing(what):
        def refuse(pairs, formula):
            asked.append(what)
            raise UnavailableError

        return refuse

    with monkeypatch.context() as patch, contextlib.suppress(UnavailableError):
        patch.setattr(FusedPairs, "row_statistics", refusing("row statistics"))
        patch.setattr(FusedPairs, "pair_sums", refusing("sums of terms"))
        patch.setattr(whole, "MOST_PAIRS", -1)
        patch.setattr(few_positives, "MOST_PER_ROW", -1)
        case = Case(loss, n=90, d=24, num_classes=50)
        PROVIDERS["fusedml"](case, make_problem(case))()
    return f"not offered: has no {asked[0]}" if asked else None


# 90: the last class is cut short to two samples; small, as PML needs n^3 memory for some
@pytest.mark.parametrize("provider", EAGER)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_provider_computes_every_loss(loss, provider, monkeypatch):
    case = Case(loss, n=90, d=24, num_classes=50)
    if refusal := refusal_of(loss, provider, monkeypatch):
        with pytest.raises(UnavailableError, match=refusal):
            PROVIDERS[provider](case, make_problem(case))()
    else:
        check(case, PROVIDERS[provider], provider)


@pytest.mark.parametrize("provider", EAGER)
@pytest.mark.parametrize("loss", TAKING_REFERENCES)
def test_every_provider_compares_with_references(loss, provider, monkeypatch):
    case = Case(loss, n=90, d=24, num_references=70)
    if provider == PML and not LOSSES[loss].agrees_with_pml_on_references:
        with pytest.raises(UnavailableError, match="not offered: computes something else"):
            PROVIDERS[provider](case, make_problem(case))
    elif refusal := refusal_of(loss, provider, monkeypatch):
        with pytest.raises(UnavailableError, match=refusal):
            PROVIDERS[provider](case, make_problem(case))()
    else:
        check(case, PROVIDERS[provider], provider)


def queries_and_documents(loss):
    return Case(loss, n=90, d=24, samples_per_class=1, num_references=90)


@pytest.mark.parametrize("provider", ["fusedml", "dense"])
@pytest.mark.parametrize("loss", TWO_TOWER_LOSSES)
def test_losses_of_two_sets_are_computed(loss, provider):
    check(queries_and_documents(loss), PROVIDERS[provider], provider)


@pytest.mark.parametrize("provider", [CHECKPOINT, GRADIENT_IN_FORWARD, PML, CROSS_ENTROPY])
@pytest.mark.parametrize("loss", TWO_TOWER_LOSSES)
def test_losses_of_two_sets_are_not_offered_by_others(loss, provider):
    case = queries_and_documents(loss)
    with pytest.raises(UnavailableError, match="not offered"):
        PROVIDERS[provider](case, make_problem(case))


@pytest.mark.parametrize("loss", DISTILLATION_LOSSES)
def test_losses_with_a_teacher_are_computed_and_not_offered_by_others(loss):
    case = Case(loss, n=90, d=24)
    for provider in ("fusedml", "dense"):
        check(case, PROVIDERS[provider], provider)
    for provider in (CHECKPOINT, GRADIENT_IN_FORWARD, PML, CROSS_ENTROPY):
        with pytest.raises(UnavailableError, match="not offered"):
            PROVIDERS[provider](case, make_problem(case))


@pytest.mark.parametrize("loss", ["SupConLoss", "NTXentLoss"])
def test_the_bare_cross_entropy_is_the_loss_of_queries_and_documents(loss):
    check(queries_and_documents(loss), PROVIDERS[CROSS_ENTROPY], CROSS_ENTROPY)


@pytest.mark.parametrize(
    "case",
    [
        queries_and_documents("MultiSimilarityLoss"),  # no cross-entropy
        queries_and_documents("TupletMarginLoss"),  # of logits that are no multiple of s
        Case("SupConLoss", n=90, d=24, samples_per_class=2, num_references=90),  # two positives
        Case("SupConLoss", n=90, d=24, samples_per_class=1, num_references=100),
        Case("SupConLoss", n=90, d=24, samples_per_class=1),
    ],
    ids=lambda case: f"{case.loss}-{case.samples_per_class}-{case.num_references}",
)
def test_the_bare_cross_entropy_is_not_offered_for_anything_else(case):
    with pytest.raises(UnavailableError, match="computes the cross-entropy of one positive"):
        PROVIDERS[CROSS_ENTROPY](case, make_problem(case))


@pytest.mark.parametrize("provider", [CHECKPOINT, GRADIENT_IN_FORWARD])
@pytest.mark.parametrize("loss", LOSSES)
def test_row_chunks_are_exact_in_float64(loss, provider, monkeypatch):
    if refusal_of(loss, provider, monkeypatch):
        pytest.skip("not offered")
    case = Case(loss, n=90, d=24, num_classes=50, dtype="float64")
    errors = relative_errors(case, PROVIDERS[provider])
    assert errors.value < 1e-14 and errors.gradient < 1e-14


@pytest.mark.parametrize("provider", [CHECKPOINT, GRADIENT_IN_FORWARD])
def test_row_chunks_hold_no_matrix(provider):
    """What autograd keeps from the forward stays far below the 300 x 300 pairs."""
    case = Case("LiftedStructureLoss", n=300, d=4)
    problem, kept = make_problem(case), weakref.WeakSet()

    class Saved:
        def __init__(self, tensor):
            self.tensor = tensor.detach()  # an output would keep its own node alive
            kept.add(self)

    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        loss = PROVIDERS[provider](case, problem)()
    storages = {saved.tensor.untyped_storage() for saved in kept}
    assert loss.requires_grad and storages
    assert sum({each.data_ptr(): each.nbytes() for each in storages}.values()) < 300 * 300


def test_gradient_in_forward_computes_none_without_grad(monkeypatch):
    case = Case("SupConLoss", n=90, d=24, direction="forward")
    problem = make_problem(case)
    value = run_step(case, problem, PROVIDERS[GRADIENT_IN_FORWARD](case, problem))
    expected = run_step(case, problem, dense_autograd(case, problem))
    torch.testing.assert_close(value, expected)
    monkeypatch.setattr(torch.autograd, "grad", None)
    run_step(case, problem, PROVIDERS[GRADIENT_IN_FORWARD](case, problem))


def test_gradient_in_forward_scales_in_the_backward():
    case = Case("MultiSimilarityLoss", n=90, d=24, dtype="float64")
    problem = make_problem(case)
    loss = PROVIDERS[GRADIENT_IN_FORWARD](case, problem)() * 3
    expected = dense_autograd(case, problem)() * 3
    torch.testing.assert_close(
        *(torch.autograd.grad(value, problem.embeddings) for value in (loss, expected))
    )


def test_compiled_equals_dense(monkeypatch):
    # everything but the C++ compiler, which takes half a minute
    compile_ = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", compile_)
    check(Case("MultiSimilarityLoss", n=12, d=4), dense_compiled, COMPILED)


def test_what_does_not_compile_says_why(monkeypatch):
    def fail():
        raise torch._dynamo.exc.InternalTorchDynamoError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fail)
    case = Case("MultiSimilarityLoss", n=12, d=4)
    with pytest.raises(UnavailableError, match=r"does not compile: .*no C\+\+ compiler"):
        dense_compiled(case, make_problem(case))()


@pytest.mark.parametrize("name", [CUT, INF_CL])
def test_a_gpu_peer_says_what_it_lacks(name, monkeypatch):
    def refusal(case):
        with pytest.raises(UnavailableError) as error:
            PROVIDERS[name](case, problem)
        return str(error.value)

    case = Case("NPairsLoss", n=24, d=16)
    problem = make_problem(case)
    assert refusal(case) == "needs a GPU"
    monkeypatch.setitem(sys.modules, name.replace("-", "_"), None)  # as if not installed
    assert refusal(replace(case, device="cuda")).startswith("not installed: ")


@pytest.mark.parametrize("name", [CUT, INF_CL])
def test_a_gpu_peer_is_given_the_n_pair_problem(name, monkeypatch):
    """With what each project documents in place of its kernels."""
    module = ModuleType(name.replace("-", "_"))

    def linear_cross_entropy(e, c, targets, impl, reduction):
        assert impl == "cce_exact"
        return cross_entropy(e @ c.T, targets, reduction=reduction)

    def cal_flash_loss(q, k, labels=None, scale=None, head_dim=256):
        assert q.shape[1] % head_dim == 0 and scale is None
        return cross_entropy(q @ k.T, labels, reduction="none")

    module.linear_cross_entropy, module.cal_flash_loss = linear_cross_entropy, cal_flash_loss
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(peers, "_require_gpu", lambda case: None)
    check(Case("NPairsLoss", n=90, d=48), PROVIDERS[name], name)
    case = Case("SupConLoss", n=90, d=48)
    with pytest.raises(UnavailableError, match="not offered: computes the cross-entropy of one"):
        PROVIDERS[name](case, make_problem(case))()


TRIPLETS = [
    f"{name} {variant}".strip()
    for name, loss in LOSSES.items()
    for variant in loss.in_sentence_transformers
]


@pytest.mark.parametrize("loss", TRIPLETS)
def test_sentence_transformers_losses_of_triplets(loss):
    pytest.importorskip("sentence_transformers", reason="an example needs it, no test does")
    for dtype in ("float32", "float64"):
        check(Case(loss, n=90, d=24, dtype=dtype), PROVIDERS[SENTENCE_TRANSFORMERS])


@pytest.mark.parametrize("loss", TRIPLETS)
def test_their_losses_are_given_what_they_document(loss, monkeypatch):
    """With the formulas that they document, one triplet after the other."""

    class OfTriplets:
        def __init__(self, model, margin):
            self.model, self.margin = model, margin

        def __call__(self, sentence_features, labels):
            x = self.model(sentence_features[0])["sentence_embedding"]
            losses = []
            for i, p in (labels[:, None] == labels).fill_diagonal_(False).nonzero().tolist():
                to_positive = (x[i] - x[p]).norm()
                to_others = (x[i] - x[labels != labels[i]]).norm(dim=1)
                losses.append(
                    torch.relu(to_positive - self.chosen(to_positive, to_others) + self.margin)
                )
            return self.mean(torch.cat(losses))

    class BatchAllTripletLoss(OfTriplets):
        def chosen(self, to_positive, to_others):
            return to_others

        def mean(self, losses):
            return losses[losses > 0].mean()

    class BatchSemiHardTripletLoss(OfTriplets):
        def chosen(self, to_positive, to_others):
            farther = to_others[to_others > to_positive]
            return farther.min()[None] if len(farther) else to_others.max()[None]

        def mean(self, losses):
            return losses.mean()

    package, module = (
        ModuleType("sentence_transformers"),
        ModuleType("sentence_transformers.losses"),
    )
    module.BatchAllTripletLoss = BatchAllTripletLoss
    module.BatchSemiHardTripletLoss = BatchSemiHardTripletLoss
    monkeypatch.setitem(sys.modules, "sentence_transformers", package)
    monkeypatch.setitem(sys.modules, "sentence_transformers.losses", module)
    check(Case(loss, n=60, d=16, dtype="float64"), PROVIDERS[SENTENCE_TRANSFORMERS])


def test_sentence_transformers_has_no_other_and_may_lack(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers.losses", None)  # as if not installed
    for case, message in (
        (Case(TRIPLETS[0], n=24, d=16), "not installed: "),
        (Case("SupConLoss", n=24, d=16), "not offered: has no such loss"),
        (Case(TRIPLETS[0], n=24, d=16, num_references=24), "not offered: has no such loss"),
    ):
        with pytest.raises(UnavailableError, match=message):
            PROVIDERS[SENTENCE_TRANSFORMERS](case, make_problem(case))


@pytest.mark.parametrize("loss", ["MultiSimilarityLoss", "ProxyAnchorLoss"])
def test_bare_products_cover_all_rows(loss):
    # more than 2^25 pairs are multiplied in blocks; here there is one
    case = Case(loss, n=70, d=5, num_classes=30)
    bare_products(case, make_problem(case))()
    bare_products(replace(case, direction="forward"), make_problem(case))()


def test_bare_products_take_the_number_type_of_the_problem():
    case = Case("MultiSimilarityLoss", n=16, d=4, dtype="float64")
    torch.set_default_dtype(torch.float32)
    bare_products(case, make_problem(case))()
