import torch

from bench.measures.locality import locality, partitions

IMAGES = torch.rand(80, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_partitions_are_what_their_names_say():
    masks = partitions(4, 6)
    assert masks["halves"][:, :3].all()
    assert not masks["halves"][:, 3:].any()
    board = masks["checkerboard"]
    assert (board[1:] != board[:-1]).all()
    assert (board[:, 1:] != board[:, :-1]).all()


def test_a_function_of_near_pixels_is_local_and_one_of_far_pixels_is_not():
    def near(images):
        """Products of horizontal neighbours, none across the middle, none of equal colour."""
        return (images[..., [0, 2, 3]] * images[..., [1, 1, 4]]).sum((1, 2))

    def far(images):
        """Products of pixels of opposite halves and equal colour."""
        return (images[..., :2] * images[..., 4:]).sum((1, 2))

    found = {f.__name__: locality(f, IMAGES) for f in (near, far)}
    assert found["near"]["locality"] > 1
    assert found["far"]["locality"] < 1
    assert found["near"]["separation_rank_halves"] < 2.01
    assert found["far"]["separation_rank_checkerboard"] < 2.01
