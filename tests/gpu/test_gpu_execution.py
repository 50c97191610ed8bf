"""How the kernels run: same bits, streams, CUDA graphs, no waiting, bounded memory, large sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.cases import Case, as_dtype, make_problem
from fusedml.engine import autograd
from fusedml.engine.pairs import PairProblem
from fusedml.engine.routes import label_order
from fusedml.losses import LOSSES, MultiSimilarityLoss
from tests.gpu.device import DEVICE, needs_gpu
from tests.gpu.test_gpu_losses import case_of, module_of
from tests.number_types import NUMBER_TYPES

pytestmark = needs_gpu

MB = 1e6
LARGE = 65536  # 2^32 pairs
WAITING = [name for name, loss in LOSSES.items() if loss.waits_for_host]
NOT_WAITING = [name for name in LOSSES if name not in WAITING]
UNUSED = 1 << 20  # at most, of a block of memory that PyTorch's allocator does not divide further


def step(module, problem):
    loss = module(problem.embeddings, problem.labels)
    return [loss.detach(), *torch.autograd.grad(loss, problem.leaves)]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("number_type", ["bfloat16", "highest", "float64"])
@pytest.mark.parametrize("n, d", [(500, 64), (2500, 200)])
def test_same_bits_in_twenty_runs(name, number_type, n, d):
    problem = as_dtype(make_problem(case_of(name, n, d)), NUMBER_TYPES[number_type].dtype)
    module = module_of(name, problem.weights)
    first = step(module, problem)
    for _ in range(19):
        # the workspace holds what others left there
        torch.full((1 << 22,), float("nan"), device=DEVICE)
        assert same(step(module, problem), first)


@pytest.mark.parametrize("name", LOSSES)
def test_same_bits_on_streams_side_by_side(name):
    problems = [
        as_dtype(
            make_problem(Case(name, 700, 96, num_classes=300, device=DEVICE, seed=k)), torch.float32
        )
        for k in range(4)
    ]
    modules = [module_of(name, problem.weights) for problem in problems]
    expected = [step(*pair) for pair in zip(modules, problems, strict=True)]
    streams = [torch.cuda.Stream() for _ in problems]
    torch.cuda.synchronize()
    for _ in range(5):
        results = []
        for stream, module, problem in zip(streams, modules, problems, strict=True):
            with torch.cuda.stream(stream):
                results.append(step(module, problem))
        torch.cuda.synchronize()
        assert all(same(a, b) for a, b in zip(results, expected, strict=True))


@pytest.fixture(params=[True, False], ids=["sorted", "as given"])
def _label_order(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(label_order, "LEAST_ROWS", 1)


def second_step(name):
    """In which waiting for the GPU is an error; the first step loads the kernels."""
    problem = as_dtype(make_problem(case_of(name, 300, 64)), torch.bfloat16)
    module = module_of(name, problem.weights)
    step(module, problem)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(module, problem)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("_label_order")
@pytest.mark.parametrize("name", NOT_WAITING)
def test_nothing_waits_for_the_gpu(name):
    second_step(name)


@pytest.mark.parametrize("name", WAITING)
def test_what_waits_says_so(name):
    with pytest.raises(RuntimeError, match="synchroniz"):
        second_step(name)


@pytest.mark.usefixtures("_label_order")
@pytest.mark.parametrize("name", NOT_WAITING)
@pytest.mark.parametrize("d", [64, 200])
def test_cuda_graph(name, d):
    problem = as_dtype(make_problem(case_of(name, 300, d)), torch.bfloat16)
    other = as_dtype(make_problem(replace(case_of(name, 300, d), seed=5)), torch.bfloat16)
    module = module_of(name, problem.weights)
    other = other._replace(weights=problem.weights)
    expected = [step(module, one) for one in (problem, other)]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # loads the kernels, as the capture may not
            step(module, problem)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step(module, problem)
    originals = problem.embeddings.detach().clone(), problem.labels.clone()
    for inputs, wanted in (
        ((other.embeddings.detach(), other.labels), expected[1]),
        (originals, expected[0]),
    ):
        with torch.no_grad():
            problem.embeddings.copy_(inputs[0])
            problem.labels.copy_(inputs[1])
        graph.replay()
        torch.cuda.synchronize()
        assert same(results, wanted)


def peak_extra(run):
    run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def unit_rows(n, d, dtype=torch.bfloat16, seed=0):
    generator = torch.Generator(DEVICE).manual_seed(seed)
    x = torch.randn(n, d, generator=generator, device=DEVICE)
    return torch.nn.functional.normalize(x).to(dtype)


LOGIT = torch.tensor([-2.0, 1.0, 20.0, -10.0], dtype=torch.float64)


def self_problem(n, d, samples_per_class=4, dtype=torch.bfloat16):
    labels = torch.arange(n, device=DEVICE) // samples_per_class
    return PairProblem(unit_rows(n, d, dtype), None, labels, None)


@pytest.mark.parametrize("samples_per_class", [4, 1 << 30], ids=["four", "one_class"])
@pytest.mark.parametrize("d", [64, 512, 2048])
def test_memory_of_the_operators(d, samples_per_class):
    n = LARGE
    problem = self_problem(n, d, samples_per_class)

    def forward():
        return autograd.pair_statistics(problem, LOGIT, None, "cuda")

    # statistics [3, n] and counts [2, n]; half the products cost 7.4 MB of partial results
    assert peak_extra(forward) <= n * (3 * 4 + 2 * 8) + 7.4 * MB + UNUSED
    row = forward()
    statistics = torch.stack(row[:3])
    upstream = torch.ones_like(statistics)

    def backward():
        return torch.ops.fusedml.pair_gradient(
            *problem[:4], LOGIT, "dot", 0, None, None, statistics, upstream, [True, False, False]
        )

    # the gradient, and beside it at most 64 MB or 1.5 times the bytes of the embeddings
    assert peak_extra(backward) <= n * d * 2 + max(64 * MB, 3 * n * d) + UNUSED


def test_memory_of_statistics_of_two_operands():
    n = LARGE
    problem = self_problem(n, 128)
    problem = problem._replace(
        references=unit_rows(n, 128, seed=1), reference_labels=problem.anchor_labels.clone()
    )
    peak = peak_extra(lambda: autograd.pair_statistics(problem, LOGIT, None, "cuda"))
    # one partial result per row
    assert peak <= n * (3 * 4 + 2 * 8) + 1.9 * MB + UNUSED


@pytest.mark.parametrize("name", LOSSES)
def test_memory_of_a_step(name):
    n, d = 16384, 256
    problem = as_dtype(
        make_problem(Case(name, n, d, num_classes=10000, device=DEVICE)), torch.bfloat16
    )
    module = module_of(name, problem.weights)
    rows = n + (10000 if problem.weights is not None else 0)
    # what PyTorch's own normalisation takes, forward and backward, in float32, is not ours
    normalisation = 5 * rows * d * 4
    assert peak_extra(lambda: step(module, problem)) <= rows * d * 2 + normalisation + 64 * MB


def check_rows(problem, rows, floor):
    """Statistics of some rows against float64."""
    row = autograd.pair_statistics(problem, LOGIT, None, "cuda")
    references = problem.anchors if problem.references is None else problem.references
    labels = problem.anchor_labels if problem.references is None else problem.reference_labels
    for i in rows:
        s = references.double() @ problem.anchors[i].double()
        is_positive = labels == problem.anchor_labels[i]
        keep = torch.ones_like(is_positive)
        if problem.exclude_diagonal:
            keep[i] = False
        positive = (-2 * s + 1)[is_positive & keep]
        negative = (20 * s - 10)[~is_positive & keep]
        for ours, exact in (
            (row.lse_positive[i], positive.logsumexp(0)),
            (row.lse_negative[i], negative.logsumexp(0)),
            (row.sum_positive[i], positive.sum()),
        ):
            torch.testing.assert_close(ours.double(), exact, rtol=floor, atol=floor)
        assert int(row.num_positive[i]) == len(positive)
        assert int(row.num_negative[i]) == len(negative)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_more_than_two_to_the_31_pairs(dtype):
    rows = [0, 1, LARGE // 2 + 3, LARGE - 1]
    check_rows(self_problem(LARGE, 128, dtype=dtype), rows, 1e-4)


def test_many_references():
    m = (1 << 20) + 3
    anchors, references = unit_rows(4099, 16), unit_rows(m, 16, seed=1)
    labels = torch.arange(m, device=DEVICE) // 4
    problem = PairProblem(anchors, references, labels[-4099:], labels, "dot", False)
    check_rows(problem, [0, 4098], 1e-4)


def test_more_than_two_to_the_31_elements():
    # offsets into the embeddings themselves: 2^31 elements and a little more
    n, d = 4_200_000, 512
    anchors = unit_rows(257, d, seed=1)
    references = torch.zeros(n, d, dtype=torch.bfloat16, device=DEVICE)
    references[-257:] = anchors
    labels = torch.full((n,), -1, device=DEVICE)
    labels[-257:] = torch.arange(257, device=DEVICE)
    problem = PairProblem(anchors, references, labels[-257:], labels, "dot", False)
    row = autograd.pair_statistics(problem, LOGIT, None, "cuda")
    assert (row.num_positive == 1).all()
    # the only positive is the anchor itself, s = 1
    torch.testing.assert_close(
        row.sum_positive, torch.full_like(row.sum_positive, -1), rtol=0, atol=2e-2
    )


@pytest.mark.parametrize("d", [64, 256])
def test_gradient_at_full_size(d):
    n = LARGE
    problem = self_problem(n, d)
    x = problem.anchors.requires_grad_()
    row = autograd.pair_statistics(problem, LOGIT, None, "cuda")
    upstream = torch.randn(2, n, device=DEVICE)
    (grad,) = torch.autograd.grad((torch.stack(row[:2]) * upstream).sum(), x)
    a = x.detach().double()
    for i in (0, n - 1):
        s = a @ a[i]
        is_positive = problem.anchor_labels == problem.anchor_labels[i]
        z = torch.where(is_positive, -2 * s + 1, 20 * s - 10)
        scale = torch.where(is_positive, -2.0, 20.0)
        weight = torch.zeros_like(s)
        for k, mask in ((0, is_positive), (1, ~is_positive)):
            lse, g = row[k].double(), upstream[k].double()
            # the pair in row i's statistics and in the other row's
            both = g[i] * (z - lse[i]).exp() + g * (z - lse).exp()
            weight += torch.where(mask, both * scale, 0)
        weight[i] = 0
        exact = weight @ a
        assert (grad[i].double() - exact).norm() <= 2e-2 * exact.norm()


def test_second_device():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    problem = as_dtype(make_problem(case_of("MultiSimilarityLoss", 200, 32)), torch.float32)
    expected = step(MultiSimilarityLoss(backend="cuda"), problem)
    there = problem._replace(
        embeddings=problem.embeddings.detach().to("cuda:1").requires_grad_(),
        labels=problem.labels.to("cuda:1"),
    )
    results = step(MultiSimilarityLoss(backend="cuda"), there)
    assert torch.cuda.current_device() == 0
    assert all(x.device.index == 1 for x in results)
    assert same([x.to("cuda:0") for x in results], expected)
