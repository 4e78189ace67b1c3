"""moto's server, with signatures checked over what was sent.

moto 5.1.1 computes a request's signature from the query as werkzeug has decoded
it, so that even boto3 (1.37.9) is refused (SignatureDoesNotMatch) a list whose
prefix has a slash. Here it takes the query from the request's own line.
"""

from flask import request
from moto.ebs import models
from moto.iam import access_control
from moto.server import main

made = access_control.IAMRequestBase._create_aws_request


def as_sent(self):
    self._path = request.environ["RAW_URI"]
    return made(self)


access_control.IAMRequestBase._create_aws_request = as_sent

# The service counts a block's bytes (524288) and tells indexes as numbers; moto
# says 512 and keeps the text of the path.
begun = models.EBSSnapshot.__init__
put = models.EBSSnapshot.put_block


def begin(self, *args, **kwargs):
    begun(self, *args, **kwargs)
    self.block_size = 524288


def put_block(self, block_idx, *args, **kwargs):
    put(self, int(block_idx), *args, **kwargs)


models.EBSSnapshot.__init__ = begin
models.EBSSnapshot.put_block = put_block
main()
