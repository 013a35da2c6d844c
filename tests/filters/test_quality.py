"""The bundled classifier tells prose from what is none; scores do not depend on the batch."""

import numpy as np
import pytest

from filters.quality import BUNDLED_FILE, quality

PROSE = """Every process on the system runs under the identity of some user, and the kernel uses
this identity to decide which files the process may open. When a program needs more rights than the
person who starts it, the administrator can grant them for this program alone, which is safer than
sharing the password of the root account with everybody."""
CHANGES = """mypackage (1.2-3) unstable; urgency=medium * New upstream release. (Closes: #812345)
* debian/control: bump Standards-Version to 4.6.2, no changes needed. -- Jane Doe, Tue, 03 Jan"""
LICENCE = """Permission is hereby granted, free of charge, to any person obtaining a copy of this
software and associated documentation files, to deal in the Software without restriction. THE
SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED."""


def test_prose_is_found_better_than_the_rest():
    prose, changes, licence = quality([PROSE, CHANGES, LICENCE])
    assert prose > 0.5
    assert changes < 0.1
    assert licence < 0.1


def test_a_text_without_words_has_the_least_score():
    assert quality(["", " \n\t"]).tolist() == [0.0, 0.0]
    assert quality([]).shape == (0,)


def test_scores_are_of_the_text_alone():
    alone = np.concatenate([quality([text]) for text in (PROSE, CHANGES, LICENCE)])
    assert quality([LICENCE, PROSE, CHANGES])[[1, 2, 0]].tolist() == alone.tolist()
    assert quality([PROSE.replace("\n", " ")]).tolist() == alone[:1].tolist()


def test_another_file_and_label_may_be_named():
    good, bad = quality([PROSE], str(BUNDLED_FILE)), quality([PROSE], str(BUNDLED_FILE), "bad")
    assert good + bad == pytest.approx(1, abs=2e-4)
    assert quality([PROSE], str(BUNDLED_FILE), "unheard-of").tolist() == [0.0]


def test_the_bundled_model_is_small():
    assert BUNDLED_FILE.stat().st_size < 300_000
