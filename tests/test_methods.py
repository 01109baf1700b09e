import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clsl import encoders, methods, train
from clsl.config import Pretraining, settings
from clsl.losses import cl_infonce


def build(name, size=8, **fields):
    own = methods.METHODS[name].clusters
    config = Pretraining(method=name, clusters="kmeans:k=8" if own == "kmeans" else own or "labels", **fields)
    torch.manual_seed(0)
    return methods.METHODS[name].module(encoders.build("tiny"), size, config)


@pytest.fixture
def views(noise):
    return torch.randn(2 * 32, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_settings_are_there_for_every_method():
    for name in methods.METHODS:
        assert set(settings(name, "cifar10", None)) == {"lr", "temperature", "batch_size"}
    assert settings("byol+progressive", "cifar10", "kmeans:k=5") == settings("byol", "cifar10", None)


def test_moco_is_he_et_als_algorithm(views):
    """One step of algorithm 1, written out: the copy moves first, the queue answers last."""
    moco = build("moco", queue_size=300, batch_size=32, temperature=0.2, encoder_momentum=0.9)
    assert moco.queue.shape == (288, 128)  # whole batches
    with torch.no_grad():
        for p in moco.head.parameters():
            p.add_(0.01)
    slow = [0.9 * k + 0.1 * q for k, q in zip(moco.key[1].parameters(), moco.head.parameters())]
    queue = moco.queue.clone()
    loss = moco(views, torch.arange(32))
    assert all(torch.allclose(a, b) for a, b in zip(moco.key[1].parameters(), slow))
    keys = moco.queue[:32]
    assert torch.equal(moco.queue[32:], queue[:-32])
    q = F.normalize(moco.head(moco.encoder(views[:32])), dim=1)
    logits = torch.cat([(q * keys).sum(1, keepdim=True), q @ queue.T], dim=1) / 0.2
    assert loss.item() == pytest.approx(F.cross_entropy(logits, torch.zeros(32, dtype=torch.long)).item(), abs=1e-5)
    loss.backward()
    assert all(p.grad is None for p in moco.key.parameters()) and all(p.grad is not None for p in moco.head.parameters())


def test_pcl_prototypes_and_concentrations():
    """Equation 12 of Li et al., cluster by cluster."""
    pcl = build("pcl", temperature=0.2)
    p = F.normalize(torch.randn(60, 128, generator=torch.Generator().manual_seed(0)), dim=1)
    z = torch.cat([torch.arange(50) % 4, torch.full((9,), 4), torch.tensor([5])])
    pcl.weigh(1, 20)
    pcl.regroup(p, z)
    assert pcl.prototypes is None  # too early
    pcl.weigh(2, 20)
    pcl.regroup(p, z)
    phi = []
    for k in range(5):
        mine = p[z == k]
        assert torch.allclose(pcl.prototypes[k], F.normalize(mine.mean(0), dim=0), atol=1e-6)
        n = len(mine)
        phi.append((mine - mine.mean(0)).norm(dim=1).sum() / (n * torch.tensor(n + 10.0).log()))
    phi = torch.stack([*phi, max(phi)])  # the cluster of one
    phi = phi.clamp(phi.quantile(0.1), phi.quantile(0.9))
    assert torch.allclose(pcl.concentration, 0.2 * phi / phi.mean(), atol=1e-5)


def test_pcl_is_moco_and_the_prototypes(views):
    moco, pcl = build("moco", temperature=0.2), build("pcl", temperature=0.2)
    z = torch.arange(32) % 4
    pcl.regroup(F.normalize(torch.randn(32, 128), dim=1), z)
    similarity = F.normalize(pcl.head(pcl.encoder(views[:32])), dim=1) @ pcl.prototypes.T
    expected = moco(views, z) + F.cross_entropy(similarity / pcl.concentration, z)
    assert pcl(views, z).item() == pytest.approx(expected.item(), abs=1e-4)


def test_pcl_where_every_image_is_its_own_prototype():
    pcl = build("pcl", temperature=0.2)
    pcl.regroup(F.normalize(torch.randn(20, 128), dim=1), torch.arange(20))
    assert torch.allclose(pcl.concentration, torch.tensor(0.2))


def test_the_dual_head_is_the_sum_of_its_halves(views):
    z = torch.arange(32) % 4
    both, instance, cluster = (
        build(name, temperature=0.2)(views, z) for name in ("dual_head", "instance_head", "cluster_head")
    )
    assert both.item() == pytest.approx((instance + cluster).item(), abs=1e-5)


def test_the_dual_head_warms_up(views):
    """InfoNCE alone during config.warmup, to the nearest epoch; the cluster head alone has nothing else to learn by."""
    z = torch.arange(32) % 4
    for name, weights in (("dual_head", [0, 0, 0, 1, 1]), ("cluster_head", [1] * 5)):
        method = build(name, warmup=0.6)
        assert [method.weigh(epoch, 5) or method.weight for epoch in range(5)] == weights
    method = build("dual_head", temperature=0.2, warmup=0.2)
    method.weigh(0, 5)
    early = method(views, z)
    assert early.item() == pytest.approx(build("instance_head", temperature=0.2)(views, z).item(), abs=1e-5)
    method.weigh(1, 5)
    assert method(views, z) > early


def test_heads_of_three_layers_end_as_their_authors_have_them():
    for head in (build("dual_head").head, build("dual_head").cluster_head):
        assert sum(isinstance(layer, nn.BatchNorm1d) for layer in head) == 2 and isinstance(head[-1], nn.Linear)
    head = methods.BarlowTwins(encoders.build("tiny"), 8, Pretraining(method="barlow_twins")).head
    assert sum(isinstance(layer, nn.BatchNorm1d) for layer in head) == 3 and isinstance(head[-1], nn.BatchNorm1d)


def test_cmc_both_ways(views):
    """The mean of image to attributes and attributes to image over the two views, written out."""
    cmc = build("cmc", size=5, temperature=0.2)
    attributes = (torch.rand(32, 5) < 0.5).float()
    a = F.normalize(cmc.attribute_encoder(attributes), dim=1)
    expected = 0
    for view in F.normalize(cmc.project(views), dim=1).chunk(2):
        logits = view @ a.T / 0.2
        expected += (F.cross_entropy(logits, torch.arange(32)) + F.cross_entropy(logits.T, torch.arange(32))) / 4
    assert cmc(views, attributes).item() == pytest.approx(expected.item(), abs=1e-5)


def test_attribute_prediction(views):
    method, attributes = build("attribute_prediction", size=5), (torch.rand(32, 5) < 0.5).float()
    logits = method.head(method.encoder(views))
    expected = F.binary_cross_entropy(logits.sigmoid(), torch.cat([attributes, attributes]))
    assert method(views, attributes).item() == pytest.approx(expected.item(), abs=1e-5)


def test_clusters_are_made_anew_before_every_epoch(noise, tmp_path):
    config = Pretraining(method="cl_infonce", clusters="kmeans:k=8", epochs=3, batch_size=32)
    _, history = train.fit(config, noise, tmp_path / "checkpoint.pt")
    assert [row["num_clusters"] for row in history] == [8, 8, 8]
    assert len({row["h_z"] for row in history}) == 3  # other clusters each time
    assert all(0 <= row["i_zt"] <= row["h_z"] for row in history)


def test_cross_entropy_begins_again_with_new_clusters():
    """The layer and what the optimiser remembers of it."""
    method = build("cross_entropy")
    assert method.head.weight.abs().sum() > 0
    begun_again = method.regroup(None, None)
    assert method.head.weight.abs().sum() == 0 and set(begun_again) == set(method.head.parameters())


def test_the_optimiser_forgets_what_begins_again(noise, tmp_path):
    config = Pretraining(method="cross_entropy", clusters="kmeans:k=8", epochs=1, batch_size=32)
    method, optimizer = train.begin(config, 8, torch.device("cpu"))
    method(torch.randn(8, 3, 32, 32), torch.arange(4)).backward()
    optimizer.step()
    assert optimizer.state[method.head.weight]["momentum_buffer"].abs().sum() > 0
    z = train.cluster(config, method, optimizer, noise, 8, epoch=1)
    assert z.shape == (96,) and z.unique().tolist() == list(range(8))
    assert optimizer.state[method.head.weight]["momentum_buffer"].abs().sum() == 0
    assert optimizer.state[next(method.encoder.parameters())]["momentum_buffer"].abs().sum() > 0


OBJECTIVES = ["simclr", "byol", "w_mse", "barlow_twins"]


def given(method, **fields):
    return Pretraining(**{"method": method, "lr": 0.05, "temperature": 0.3, "batch_size": 96, **fields})


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_progressive_with_a_weight_of_nothing_is_its_objective(objective, noise, tmp_path):
    """Bit for bit, whatever the pseudo-labels."""
    plain = given(objective, epochs=3)
    encoder, history = train.fit(plain, noise, tmp_path / "plain.pt")
    for form in ("cl_infonce", "cross_entropy"):
        config = given(f"{objective}+progressive", clusters="kmeans:k=4", epochs=3, pseudo_weight=0.0, pseudo_loss=form)
        progressive, rows = train.fit(config, noise, tmp_path / f"{form}.pt")
        assert [row["loss"] for row in rows] == [row["loss"] for row in history]
        assert all(torch.equal(a, b) for a, b in zip(encoder.state_dict().values(), progressive.state_dict().values()))


def test_progressive_adds_the_pseudo_labels_of_both_views(views):
    z = torch.arange(32) % 4
    for form in ("cl_infonce", "cross_entropy"):
        config = given("simclr+progressive", clusters="kmeans:k=4", pseudo_loss=form)
        torch.manual_seed(0)
        method = methods.METHODS["simclr+progressive"].module(encoders.build("tiny"), 4, config)
        p = method.objective.head(method.encoder(views))
        u, v = p.chunk(2)
        if form == "cl_infonce":
            pseudo = 2 * cl_infonce(u, v, z, 0.3)
        else:
            pseudo = sum(F.cross_entropy(method.layer(each), z) for each in (u, v))
        method.alpha = 0.1
        expected = cl_infonce(u, v, torch.arange(32), 0.3) + 0.1 * pseudo
        assert method(views, z).item() == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize("refresh", [0.25, 1.0])
@pytest.mark.parametrize("rise", ["steps", "linear", "constant"])
def test_the_weight_rises_and_the_clusters_are_refreshed(rise, refresh):
    """Of 20 epochs the first two are the objective's alone; a step is two, whether labels are made anew or never."""
    config = given("simclr+progressive", clusters="kmeans:k=4", pseudo_rise=rise, refresh=refresh)
    method = methods.METHODS["simclr+progressive"].module(encoders.build("tiny"), 4, config)
    anew = [epoch for epoch in range(20) if method.clusters_anew(epoch, 20)]
    assert anew == ([0, 2, 7, 12, 17] if refresh < 1 else [0, 2])
    alphas = [method.weigh(epoch, 20) or method.alpha for epoch in range(20)]
    assert alphas[:2] == [0, 0] and alphas[19] == pytest.approx(0.1) and alphas == sorted(alphas)
    assert alphas[2] == pytest.approx(0.1 if rise == "constant" else 1e-5)
    assert len(set(alphas[2:])) == {"steps": 9, "linear": 18, "constant": 1}[rise]
    middle = {"steps": 1e-5 * 1e4 ** (5 / 8), "linear": 1e-5 + (0.1 - 1e-5) * 10 / 17, "constant": 0.1}
    assert alphas[12] == pytest.approx(middle[rise])


@pytest.mark.parametrize("method, form", [("simclr", "cl_infonce"), ("byol", "cross_entropy")])
def test_progressive_goes_on_with_its_clusters(method, form, noise, tmp_path):
    """Killed between two clusterings, it goes on bit for bit, with the clusters that it had."""
    fields = dict(clusters="kmeans:k=4", epochs=8, refresh=0.5, batch_size=32, pseudo_rise="linear", pseudo_loss=form)
    config = given(f"{method}+progressive", **fields)

    def kill(done):
        if done == 3 * (96 // 32) + 1:  # of the fourth epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.fit(config, noise, tmp_path / "killed.pt", kill)
    rows = [train.fit(config, noise, tmp_path / f"{name}.pt")[1] for name in ("killed", "whole")]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]
    assert len({row["i_zt"] for row in rows[0]}) == 3  # at the start, after the warm-up, and once more


def test_byol_predicts_the_copys_other_view(views):
    torch.manual_seed(0)
    method = methods.BYOL(encoders.build("tiny"), 8, given("byol", encoder_momentum=0.9))
    with torch.no_grad():
        for p in method.head.parameters():
            p.add_(0.01)
    slow = [0.9 * k + 0.1 * q for k, q in zip(method.target[1].parameters(), method.head.parameters())]
    loss = method(views, torch.arange(32))
    assert all(torch.allclose(a, b) for a, b in zip(method.target[1].parameters(), slow))
    predicted, target = (
        method.predictor(method.head(method.encoder(views))).chunk(2),
        method.target[1](method.target[0](views)).chunk(2),
    )
    expected = sum(
        (F.normalize(p, dim=1) - F.normalize(t, dim=1)).square().sum(1).mean() for p, t in zip(predicted, target[::-1])
    )
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    loss.backward()
    assert all(p.grad is None for p in method.target.parameters()) and all(
        p.grad is not None for p in method.predictor.parameters()
    )


def test_w_mse_says_when_the_batch_is_too_small():
    for method in ("w_mse", "w_mse+progressive"):
        with pytest.raises(ValueError, match="batch_size must be more than the 64 dimensions that w_mse whitens, got 64"):
            given(method, batch_size=64, clusters="kmeans:k=4" if "+" in method else None)
