"""The networks that embed windows: their sizes, against public counts, and their loss by hand."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from asdgan.config import compose
from asdgan.errors import BadInput
from asdgan.nn.embeddings import NETWORKS, ArcFace, MobileFaceNet, make
from asdgan.nn.lanes import keyed

NEWER = [[2, 128, 2, 2], [4, 128, 2, 2], [4, 128, 2, 2]]
SMALL = {
    "mobilefacenet": {
        "blocks": [[2, 8, 2, 2], [1, 8, 1, 1]], "last": 16, "width": 6, "stem": 8, "squeeze": 2,
    },
    "ecapa_tdnn": {
        "filters": 16, "kernels": [5, 3], "dilations": [1, 2], "merged": 8, "attention": 4,
        "groups": 4, "squeezed": 4, "width": 6,
    },
    "cnn6": {"filters": [4, 8], "width": 6, "dropout": 0.2, "dropout_last": 0.5},
}  # fmt: skip


@pytest.fixture(scope="module")
def published():
    return compose.compose(["model=sc"]).model.networks


def weights(network):
    return sum(p.numel() for p in network.parameters())


def image(windows=4, mels=16, frames=12):
    return torch.randn(windows, 1, mels, frames, generator=torch.Generator().manual_seed(0))


def test_mobilefacenet_with_41_classes_has_the_size_of_stgram_mfns(published):
    own = {**published.mobilefacenet, "excited": False}
    sizes = [
        weights(MobileFaceNet(channels=2, mels=128, frames=313, **{**own, "blocks": blocks}))
        for blocks in (own["blocks"], NEWER)
    ]
    assert [round((size + 41 * 128) / 1e6, 3) for size in sizes] == [1.065, 0.876]


def test_cnn6_with_527_classes_has_panns_4837455_parameters(published):
    network = make("cnn6", published, mels=64, frames=1001)
    assert weights(network) + 512 * 527 + 527 == 4_837_455


@pytest.mark.parametrize(("filters", "millions"), [(512, 6.2), (1024, 14.7)])
def test_ecapa_tdnn_has_the_papers_number_of_parameters(published, filters, millions):
    own = {**published.ecapa_tdnn, "filters": filters}
    network = make("ecapa_tdnn", {"ecapa_tdnn": own}, mels=80, frames=200)
    assert round(weights(network) / 1e6, 1) == millions


@pytest.mark.parametrize(("mels", "frames", "left"), [(128, 313, (8, 20)), (1025, 192, (65, 12))])
def test_mobilefacenets_last_filter_takes_all_that_is_left(published, mels, frames, left):
    network = make("mobilefacenet", published, mels=mels, frames=frames)
    assert network.layers[-2][0].kernel_size == left


def test_a_squeeze_stands_in_every_bottleneck_of_the_excited_network(published):
    plain, excited = (
        weights(make(name, published, mels=64, frames=192))
        for name in ("mobilefacenet", "mobilefacenet_se")
    )
    inputs = [64] * 6 + [128] * 9  # of the 15 bottlenecks
    wides = [2 * n for n in inputs[:5]] + [256] + [256] * 6 + [512] + [256] * 2
    assert excited - plain == sum(2 * wide * (wide // 4) + wide // 4 + wide for wide in wides)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_learns_in_all_its_parts_and_embeds_a_window_by_itself(network):
    with keyed(0):
        made = make(network, SMALL, mels=16, frames=12)
        (made(image()) * image(4, 1, 6).reshape(4, 6)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters())
    together = made.eval()(image())
    assert together.shape == (4, made.width)
    torch.testing.assert_close(made(image()[2:3]), together[2:3])


def test_attention_of_equal_shares_gives_mean_and_deviation(published):
    network = make("ecapa_tdnn", SMALL, mels=16, frames=12).double().eval()
    seen = []
    network.last.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network.merge.register_forward_hook(lambda *of: seen.append(of[2]))
    torch.nn.init.zeros_(network.attention[2].weight)
    network(image().double())
    series, pooled = seen
    by_hand = torch.cat([series.mean(-1), series.std(-1, correction=0)], dim=1)
    torch.testing.assert_close(pooled, by_hand, rtol=1e-7, atol=2e-6)


def test_arcface_is_the_loss_written_by_hand():
    embeddings, classes = image(5, 1, 3).reshape(5, 3).double(), torch.tensor([0, 1, 3, 3, 2])
    loss = ArcFace(num_classes=4, embedding_size=3, margin=math.degrees(0.7), scale=30).double()
    cosines = normalize(embeddings) @ normalize(loss.W, dim=0)
    angles = cosines.clamp(-1, 1).acos()
    wide = cosines - 0.7 * math.sin(0.7)  # beyond pi, where the cosine would rise again
    pushed = torch.where(angles <= math.pi - 0.7, (angles + 0.7).cos(), wide)
    logits = 30 * torch.where(torch.nn.functional.one_hot(classes, 4).bool(), pushed, cosines)
    by_hand = torch.nn.functional.cross_entropy(logits, classes)
    torch.testing.assert_close(loss(embeddings, classes), by_hand)


def test_arcface_has_a_gradient_where_an_embedding_points_as_its_class_does():
    loss = ArcFace(num_classes=2, embedding_size=4, margin=40.0, scale=30)
    with torch.no_grad():
        loss.W.copy_(torch.eye(4)[:, :2])
    embeddings = torch.eye(4)[:2].requires_grad_()
    loss(embeddings, torch.tensor([0, 1])).backward()
    assert embeddings.grad.isfinite().all()
    assert loss.W.grad.isfinite().all()


@pytest.mark.parametrize(
    ("network", "frames", "said"),
    [
        ("cnn6", 8, "cnn6 halves its windows 4 times and takes 16 frames of 16 mels or more"),
        ("ecapa_tdnn", 4, "ecapa_tdnn looks 4 frames to each side and takes windows of 5 frames"),
        ("mobilenet", 192, "model.network=mobilenet is not known; there are mobilefacenet,"),
    ],
)
def test_windows_that_a_network_cannot_take_are_refused(published, network, frames, said):
    with pytest.raises(BadInput, match=said):
        make(network, published, mels=64, frames=frames)


@pytest.mark.parametrize("typed", ["groups=7", "kernels=[5,3]", "kernels=[4,3,3,3]"])
def test_layers_and_groups_that_do_not_go_together_are_refused(typed):
    config = compose.compose(["model=sc", f"model.networks.ecapa_tdnn.{typed}"]).model.networks
    with pytest.raises(BadInput, match=r"odd kernels, a dilation for each, and filters in equal"):
        make("ecapa_tdnn", config, mels=64, frames=192)


@pytest.mark.parametrize(
    "typed",
    ["mobilefacenet.blocks=[]", "mobilefacenet.last=0", "cnn6.filters=[]", "cnn6.dropout=1"],
)
def test_sizes_that_are_none_are_refused(typed):
    with pytest.raises(BadInput, match=rf"model\.networks\.{typed.split('=')[0]}=.* is expected"):
        compose.compose(["model=sc", f"model.networks.{typed}"])


def test_what_is_keyed_is_drawn_alike_and_leaves_no_trace():
    before = torch.get_rng_state()
    draws = []
    for place in ((1, "network"), (1, "network"), (2, "network")):
        with keyed(*place):
            draws.append(torch.rand(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
