"""moto's server, with signatures checked over what was sent.

moto 5.1.1 computes a request's signature from the query as werkzeug has decoded
it, so that even boto3 (1.37.9) is refused (SignatureDoesNotMatch) a list whose
prefix has a slash. Here it takes the query from the request's own line.
"""

from flask import request
from moto.iam import access_control
from moto.server import main

made = access_control.IAMRequestBase._create_aws_request


def as_sent(self):
    self._path = request.environ["RAW_URI"]
    return made(self)


access_control.IAMRequestBase._create_aws_request = as_sent
main()
