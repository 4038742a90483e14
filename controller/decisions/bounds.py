"""What bounds does every Caddy of ours hold a request to? Shared by the edge and the surfaces; durations as Caddy's.

They are for what went wrong, far above what is used.
"""

from __future__ import annotations

APP_BODY_BYTES_MAX = 1 << 30
#: Just above the receiver's own cap, so that the receiver gives the answer.
WEBHOOK_BODY_BYTES_MAX = 26 << 20
HEADER_BYTES_MAX = 64 << 10

READ_HEADER_TIMEOUT = "10s"
#: Of a whole body, and of a whole answer.
READ_TIMEOUT = "10m"
WRITE_TIMEOUT = "1h"
IDLE_TIMEOUT = "2m"
#: Until the first byte of an answer.
RESPONSE_HEADER_TIMEOUT = "5m"
#: For requests under way when a Caddy stops; whoever asks meanwhile waits in its port's queue.
GRACE_PERIOD = "5s"
#: For WebSockets through the edge when it takes a new configuration.
STREAM_DRAIN = "5m"
#: Between two attempts to reach whoever is behind.
TRY_INTERVAL = "25ms"
IDLE_CONNECTIONS_MAX = 64

LOG_ROLL_MEBIBYTES = 10
LOG_ROLLS_KEPT = 5
