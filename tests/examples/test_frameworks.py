"""The examples within other people's trainers, where these are installed.

``make test-examples`` makes an environment that has them.
"""

from __future__ import annotations

import pytest
import torch

_REASON = "not installed; make test-examples has an environment that has it"


@pytest.fixture
def lightning_training():
    pytest.importorskip("lightning", reason=f"lightning is {_REASON}")
    from examples import lightning_training  # noqa: PLC0415

    return lightning_training


@pytest.fixture
def accelerate_training():
    pytest.importorskip("accelerate", reason=f"accelerate is {_REASON}")
    from accelerate.state import AcceleratorState  # noqa: PLC0415

    from examples import accelerate_training  # noqa: PLC0415

    yield accelerate_training
    # it is kept for the process, else, whatever the next Accelerator asks for
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def transformers_trainer():
    for name in ("transformers", "accelerate", "datasets"):
        pytest.importorskip(name, reason=f"{name} is {_REASON}")
    from examples import transformers_trainer  # noqa: PLC0415

    return transformers_trainer


@pytest.fixture
def trainer_example():
    for name in ("sentence_transformers", "datasets"):
        pytest.importorskip(name, reason=f"{name} is {_REASON}")
    from examples import sentence_transformers_trainer  # noqa: PLC0415

    return sentence_transformers_trainer


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_lightning(lightning_training, precision) -> None:
    before, after = lightning_training.train(epochs=6, precision=precision)
    assert after > before + 0.1


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate(accelerate_training, precision) -> None:
    before, after = accelerate_training.train(epochs=10, mixed_precision=precision)
    assert after > before + 0.2


def test_transformers(transformers_trainer) -> None:
    before, after = transformers_trainer.train(steps=40)
    assert after > before + 0.2


@pytest.mark.parametrize("kind", ["train_with_labels", "train_with_pairs"])
def test_sentence_transformers(trainer_example, kind) -> None:
    losses = getattr(trainer_example, kind)(steps=16)
    assert losses[-1] < 0.9 * losses[0]


def test_grad_cache_trains_alike(trainer_example) -> None:
    whole, cached = (trainer_example.train_with_pairs(8, cached=cached) for cached in (False, True))
    assert cached == pytest.approx(whole, rel=1e-4)


def test_grad_cache_is_the_gradient_of_the_whole_batch(trainer_example) -> None:
    model = trainer_example.made_model()
    columns = [trainer_example.made_texts(25, seed)[0] for seed in range(3)]
    loss_function, weights = (
        trainer_example.InfoNCELoss(temperature=1 / 20),
        model[0].emb_layer.weight,
    )
    losses, grads = [], []
    for loss in (
        trainer_example.PairLoss(model, loss_function),
        trainer_example.CachedPairLoss(model, loss_function, mini_batch_size=8),
    ):
        weights.grad = None
        losses.append(loss([model.preprocess(texts) for texts in columns], None))
        losses[-1].backward()
        grads.append(weights.grad)
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(grads[1], grads[0])


@pytest.mark.parametrize("hard_negatives", [0, 1, 2])
@pytest.mark.parametrize("n", [24, 700])  # whole matrices, and by tiles
def test_info_nce_is_their_loss(trainer_example, n, hard_negatives) -> None:
    from sentence_transformers.sentence_transformer import losses  # noqa: PLC0415

    model = trainer_example.made_model()
    columns = [trainer_example.made_texts(n, seed)[0] for seed in range(2 + hard_negatives)]

    def features():
        return [model.preprocess(texts) for texts in columns]

    loss_function = trainer_example.InfoNCELoss(temperature=1 / 20)
    ours = trainer_example.PairLoss(model, loss_function)(features())
    theirs = losses.MultipleNegativesRankingLoss(model, scale=20.0)(features(), None)
    weights = model[0].emb_layer.weight
    grads = [torch.autograd.grad(loss, weights)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    assert (grads[0] - grads[1]).norm() <= 1e-5 * grads[1].norm()
