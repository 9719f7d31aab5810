"""Stop strings: noticed on the token that completes one, without decoding every row at every step."""

from collections.abc import Callable, Sequence

import numpy as np

Decode = Callable[[Sequence[int]], str]
UNFINISHED = "\ufffd"  # how decoders show a character whose bytes are not all there yet


class StopStrings:
    """Watches for ``stop`` in the decoded text of growing samples."""

    def __init__(self, stop: Sequence[str], decode: Decode, vocabulary: int) -> None:
        self.stop, self._decode = tuple(stop), decode
        lasts = {text[-1] for text in stop}
        if any(last.isspace() for last in lasts):
            # Some decoders drop a token's space when it stands alone, so no token can be ruled out.
            self._may_complete = np.ones(vocabulary, dtype=bool)
        else:
            if any(ord(last) > 127 for last in lasts):
                lasts.add(UNFINISHED)
            self._may_complete = np.array([not lasts.isdisjoint(decode([token])) for token in range(vocabulary)])

    def candidates(self, tokens: np.ndarray) -> np.ndarray:
        """(R,) token ids just drawn -> (R,) whether the token's text has the last character of a stop string."""
        return self._may_complete[tokens]

    def found(self, token_ids: Sequence[int]) -> bool:
        """Whether the decoded text holds a stop string."""
        text = self._decode(token_ids)
        return any(stop in text for stop in self.stop)
