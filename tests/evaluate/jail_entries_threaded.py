"""A warm-up that breaks the rule of one thread."""

import threading
import time


def warm_up(request, inputs, outputs):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    return {}
