"""An image server in a thread: it answers when `at_once` requests are there, 0.4 seconds later."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    request_queue_size = 128


def start(at_once=1):
    all_asked = threading.Barrier(at_once)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            all_asked.wait()
            time.sleep(0.4)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(bytes(100_000))

        def log_message(self, *_):
            pass

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/image.jpg"
