import time

import pandas as pd
import pytest
import torch
from sklearn.cluster import KMeans

from clsl import clusters, data
from clsl.information import conditional_entropy, entropy, mutual_information

# As many classes and images as UT-Zappos50K's training split, and as uneven: its H(T) is 3.309 bits, a class's own count
# is not known here.
UNEVEN = [8279, 6329, 4838, 3698, 2827, 2161, 1652, 1262, 965, 738, 564, 431, 329, 252, 193, 147, 112, 86, 66, 50, 38]


def test_instances_and_labels():
    assert clusters.from_instances(4).tolist() == [0, 1, 2, 3]
    assert clusters.from_labels(torch.tensor([30, -2, 30, 5])).tolist() == [2, 0, 2, 1]
    assert clusters.from_labels(torch.tensor([1, 2], dtype=torch.int32)).dtype == torch.int64


def test_wordnet(cifar10):
    for level, count in [(0, 1), (4, 2), (8, 3), (9, 6), (11, 8), (14, 10)]:
        z = clusters.from_wordnet(cifar10.synsets, cifar10.labels, level)
        assert z.dtype == torch.int64 and z.unique().tolist() == list(range(count))
        assert conditional_entropy(z, given=cifar10.labels) == pytest.approx(0, abs=1e-12)
    cat, dog, ship = (cifar10.labels == cifar10.class_names.index(name) for name in ("cat", "dog", "ship"))
    z = clusters.from_wordnet(cifar10.synsets, cifar10.labels, 9)
    assert z[cat].unique() == z[dog].unique() != z[ship].unique()
    assert mutual_information(z, cifar10.labels) > 2


def test_make_by_name(cifar10):
    assert (clusters.make("instances", cifar10) == torch.arange(512)).all()
    assert (clusters.make("labels", cifar10) == cifar10.labels).all()
    expected = clusters.from_wordnet(cifar10.synsets, cifar10.labels, 9)
    assert (clusters.make("wordnet:level=9", cifar10) == expected).all()


WRONG = [
    "wordnet",
    "wordnet:depth=1",
    "wordnet:level",
    "wordnet:level=x",
    "labels:level=1",
    "kmeans",
    "kmeens:k=3",
    "split:k=3",
]


@pytest.mark.parametrize("spec", WRONG)
def test_wrong_names(spec, cifar10):
    with pytest.raises(ValueError, match=f"clusters '{spec}'"):
        clusters.make(spec, cifar10)


def test_what_cannot_be_clustered(cifar10, noise):
    with pytest.raises(ValueError, match="level 40 is out of range"):
        clusters.make("wordnet:level=40", cifar10)
    with pytest.raises(ValueError, match="class names that WordNet knows"):
        clusters.make("wordnet:level=4", noise)
    with pytest.raises(ValueError, match="level 40 is out of range"):
        clusters.vectors("wordnet:level=40", cifar10)
    with pytest.raises(ValueError, match="class names that WordNet knows"):
        clusters.make("annotators:k=3,noise=10", noise)
    with pytest.raises(ValueError, match="attributes need annotated images, and these images have none"):
        clusters.make("attributes:k=3", cifar10)
    with pytest.raises(ValueError, match="k must be between 1 and the number of images, 512, got 513"):
        clusters.make("kmeans:k=513", cifar10)
    with pytest.raises(ValueError, match="kmeans:k=5 has no clusters yet: a training makes them"):
        clusters.make("kmeans:k=5", cifar10)
    with pytest.raises(ValueError, match="unknown clusters 'kmeans:k=5': choose from wordnet"):
        clusters.vectors("kmeans:k=5", cifar10)
    with pytest.raises(ValueError, match="at least one image"):
        clusters.from_instances(0)
    with pytest.raises(ValueError, match="1-D integer"):
        clusters.from_labels(torch.tensor([0.5]))


def test_how_many_clusters_k_means_is_to_make(noise):
    assert clusters.kmeans_k("kmeans:k=96", noise) == 96
    assert clusters.kmeans_k("labels", noise) is clusters.kmeans_k("column:kmeans", noise) is None
    for k in (0, 97):
        with pytest.raises(ValueError, match=f"k must be between 1 and the number of images, 96, got {k}"):
            clusters.kmeans_k(f"kmeans:k={k}", noise)
    for spec in ("kmeans", "kmeans:k=x", "kmeans:k=5,level=2"):
        with pytest.raises(ValueError, match=f"clusters '{spec}' have a wrong, missing or extra option"):
            clusters.kmeans_k(spec, noise)


def test_no_auxiliary_information_is_none():
    assert data.load("cifar10", "test", size=10).attributes is None


def same(a, b):
    """The same clusters, up to their ids."""
    pairs = set(zip(a.tolist(), b.tolist()))
    return len(pairs) == len({x for x, _ in pairs}) == len({y for _, y in pairs})


def test_attributes_are_grouped_like_pandas_does():
    """312 binary columns, as CUB has: the clusters are a plain group-by of the k columns of highest entropy."""
    generator = torch.Generator().manual_seed(0)
    attributes = torch.rand(5994, 312, generator=generator) < torch.rand(312, generator=generator)
    p = attributes.double().mean(0)
    column_entropy = -(p * p.log2() + (1 - p) * (1 - p).log2())
    for k in (1, 3, 7, 10, 20):
        columns = column_entropy.argsort(descending=True)[:k].tolist()
        expected = pd.DataFrame(attributes.numpy()).groupby(columns).ngroup()
        assert same(clusters.from_attributes(attributes, k), expected)


@pytest.mark.parametrize(
    "attributes, k, message",
    [
        (torch.tensor([[0, 2], [1, 1]]), 1, "attributes must be 0 or 1"),
        (torch.tensor([0, 1]), 1, "attributes must be 0 or 1"),
        (torch.tensor([[0, 1], [1, 0]]), 3, "k must be between 1 and the number of attributes, 2, got 3"),
        (torch.tensor([[0, 1], [1, 0]]), 0, "k must be between 1"),
        (torch.tensor([[0, 1], [1, 1]]), 2, "attribute 1 is the same for every image"),
    ],
)
def test_attributes_that_make_no_clusters(attributes, k, message):
    with pytest.raises(ValueError, match=message):
        clusters.from_attributes(attributes, k)


def test_annotators(cifar10):
    perfect = clusters.annotated(cifar10, 0, seed=0)
    assert perfect.attributes.shape == (512, len(perfect.attribute_names)) and "animal" in perfect.attribute_names
    animal = perfect.attributes[:, perfect.attribute_names.index("animal")]
    assert {cifar10.class_names[t] for t in cifar10.labels[animal].unique()} == {"bird", "cat", "deer", "dog", "frog", "horse"}
    assert conditional_entropy(clusters.from_attributes(perfect.attributes, 8), given=cifar10.labels) < 1e-9
    seen = clusters.annotated(cifar10, 0.1, seed=1)
    assert (seen.attributes != perfect.attributes).float().mean() == pytest.approx(0.1, abs=0.01)
    assert (seen.attributes == clusters.annotated(cifar10, 0.1, seed=1).attributes).all()
    assert (seen.attributes != clusters.annotated(cifar10, 0.1, seed=2).attributes).any()
    with pytest.raises(ValueError, match="noise must be between 0 and 0.5, got 0.6"):
        clusters.annotated(cifar10, 0.6, seed=0)


def test_vectors_know_what_the_clusters_know(cifar10):
    for spec in ("wordnet:level=9", "annotators:k=4,noise=10"):
        vectors = clusters.vectors(spec, cifar10, seed=3)
        assert vectors.dtype == torch.float32 and set(vectors.unique().tolist()) == {0, 1}
        assert same(vectors.unique(dim=0, return_inverse=True)[1], clusters.make(spec, cifar10, seed=3))


def blobs(n, dim, k):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(k, dim, generator=generator)[torch.arange(n) % k] + 0.7 * torch.randn(n, dim, generator=generator)


def objective(x, z):
    means = torch.zeros(int(z.max()) + 1, x.shape[1]).index_add_(0, z, x) / z.bincount()[:, None]
    return (x - means[z]).square().sum().item()


def test_kmeans_against_scikit_learn():
    x = blobs(2000, 16, 20)
    z = clusters.from_kmeans(x, 40, seed=0)
    theirs = KMeans(40, n_init=5, max_iter=20, random_state=0).fit(x.numpy())
    assert objective(x, z) < 1.01 * theirs.inertia_
    assert (z == clusters.from_kmeans(x, 40, seed=0)).all() and not same(z, clusters.from_kmeans(x, 40, seed=1))
    assert z.dtype == torch.int64 and z.unique().tolist() == list(range(40))


def test_kmeans_at_size_against_scikit_learn():
    """20,000 × 128, K = 500, the same iterations and starts: as good, and twice as fast on one thread."""
    x = torch.randn(20_000, 128, generator=torch.Generator().manual_seed(0)) + blobs(20_000, 128, 300)
    begin = time.perf_counter()
    z = clusters.from_kmeans(x, 500, seed=0, starts=1)
    middle = time.perf_counter()
    theirs = KMeans(500, n_init=1, max_iter=20, tol=0, random_state=0).fit(x.numpy())
    ours, its = middle - begin, time.perf_counter() - middle
    print(f"objective {objective(x, z) / theirs.inertia_:.4f}, faster {its / ours:.1f} times ({its:.1f} s, {ours:.1f} s)")
    assert objective(x, z) < 1.01 * theirs.inertia_ and its > 2 * ours


def test_kmeans_does_not_see_the_order():
    """Rows in the order of classes and rows at random give clusters as good."""
    x = blobs(1000, 8, 10)
    ordered = x[(torch.arange(1000) % 10).sort(stable=True).indices]
    assert objective(ordered, clusters.from_kmeans(ordered, 10, 0)) == pytest.approx(
        objective(x, clusters.from_kmeans(x, 10, 0)), rel=0.02
    )


def test_kmeans_at_its_ends():
    x = blobs(50, 4, 5)
    assert clusters.from_kmeans(x, 50, seed=0).unique().tolist() == list(range(50))
    assert clusters.from_kmeans(x, 1, seed=0).unique().tolist() == [0]
    assert clusters.from_kmeans(torch.ones(20, 3), 4, seed=0).max() < 4  # equal features leave centroids empty
    with pytest.raises(ValueError, match="k must be between 1 and the number of images, 50, got 51"):
        clusters.from_kmeans(x, 51, seed=0)
    with pytest.raises(ValueError, match="finite features"):
        clusters.from_kmeans(torch.full((4, 2), torch.nan), 2, seed=0)


@pytest.fixture(scope="module")
def uneven():
    t = torch.arange(len(UNEVEN)).repeat_interleave(torch.tensor(UNEVEN))
    assert len(t) == 35017 and entropy(t) == pytest.approx(3.309, abs=1e-3)
    return t[torch.randperm(len(t), generator=torch.Generator().manual_seed(0))]


def test_merged(uneven):
    z = [clusters.merged(uneven, steps, seed=0) for steps in range(6)]
    assert [len(x.unique()) for x in z] == [21, 11, 6, 3, 2, 1]
    assert all(conditional_entropy(x, given=uneven) < 1e-9 for x in z)
    known = [mutual_information(x, uneven) for x in z]
    assert known == sorted(known, reverse=True) and known[0] == pytest.approx(entropy(uneven)) and known[-1] == 0
    assert all(conditional_entropy(coarse, given=fine) < 1e-9 for fine, coarse in zip(z, z[1:]))
    assert not same(z[1], clusters.merged(uneven, 1, seed=1))


def test_split(uneven):
    z = [clusters.split(uneven, depth, seed=0) for depth in range(15)]
    noise = [conditional_entropy(x, given=uneven) for x in z]
    assert noise[0] < 1e-9 and all(b > a for a, b in zip(noise, noise[1:]))
    assert noise[-1] == pytest.approx(conditional_entropy(torch.arange(len(uneven)), given=uneven), abs=1e-9)
    assert all(mutual_information(x, uneven) == pytest.approx(entropy(uneven)) for x in z)
    assert all(conditional_entropy(coarse, given=fine) < 1e-9 for coarse, fine in zip(z, z[1:]))
    assert same(z[0], uneven) and len(clusters.split(uneven, 40, seed=0).unique()) == len(uneven)


def test_permuted(uneven):
    z = clusters.split(uneven, 3, seed=0)
    out = [clusters.permuted(z, uneven, classes, seed=0) for classes in range(0, 22, 3)]
    assert all(entropy(x) == pytest.approx(entropy(z)) for x in out)
    known, noise = ([f(x, uneven) for x in out] for f in (mutual_information, conditional_entropy))
    assert known == sorted(known, reverse=True) and noise == sorted(noise) and (out[0] == z).all()
    assert known[-1] < 0.1 * known[0]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda t: clusters.merged(t, -1, 0), "steps must not be negative"),
        (lambda t: clusters.split(t, -1, 0), "depth must not be negative"),
        (lambda t: clusters.permuted(t, t, 22, 0), "classes must be between 0 and 21, got 22"),
    ],
)
def test_families_out_of_range(call, message, uneven):
    with pytest.raises(ValueError, match=message):
        call(uneven)
