import {
  clone,
  createFileRegistry,
  type DescFile,
  type DescMessage,
  type DescService,
  toBinary,
} from '@bufbuild/protobuf';
import { FileDescriptorProtoSchema } from '@bufbuild/protobuf/wkt';
import { Code, type ConnectRouter, type ServiceImpl } from '@connectrpc/connect';
import {
  ServerReflection,
  type ServerReflectionRequest,
  type ServerReflectionResponse,
} from '../../proto/gen/grpc/reflection/v1/reflection_pb.js';

type Answer = ServerReflectionResponse['messageResponse'];

/** grpc.reflection.v1, and v1alpha, which has the same messages and which older clients ask for. */
export function serveReflection(router: ConnectRouter, services: readonly DescService[]): void {
  const alpha = alphaService();
  const index = new Index([...services, ServerReflection]);
  const methods: ServiceImpl<typeof ServerReflection> = {
    async *serverReflectionInfo(requests) {
      for await (const request of requests) {
        // The generated schema fills in the rest.
        yield { originalRequest: request, validHost: request.host, messageResponse: answerOf(index, request) };
      }
    },
  };
  router.service(ServerReflection, methods);
  router.service<DescService>(alpha, methods as unknown as Partial<ServiceImpl<DescService>>);
}

function answerOf(index: Index, { messageRequest }: ServerReflectionRequest): Answer {
  const files = (file: DescFile | undefined, what: string): Answer => {
    if (!file) return { case: 'errorResponse', value: error(Code.NotFound, `there is no ${what}`) };
    return {
      case: 'fileDescriptorResponse',
      value: {
        $typeName: 'grpc.reflection.v1.FileDescriptorResponse',
        fileDescriptorProto: withImports(file).map((each) => toBinary(FileDescriptorProtoSchema, each.proto)),
      },
    };
  };
  switch (messageRequest.case) {
    case 'listServices':
      return {
        case: 'listServicesResponse',
        value: {
          $typeName: 'grpc.reflection.v1.ListServiceResponse',
          service: index.serviceNames.map((name) => ({ $typeName: 'grpc.reflection.v1.ServiceResponse', name })),
        },
      };
    case 'fileByFilename':
      return files(index.file(messageRequest.value), `file "${messageRequest.value}"`);
    case 'fileContainingSymbol':
      return files(index.symbol(messageRequest.value), `symbol "${messageRequest.value}"`);
    case 'fileContainingExtension': {
      const { containingType, extensionNumber } = messageRequest.value;
      const file = index.extension(containingType, extensionNumber);
      return files(file, `extension ${extensionNumber} of "${containingType}"`);
    }
    case 'allExtensionNumbersOfType':
      return {
        case: 'allExtensionNumbersResponse',
        value: {
          $typeName: 'grpc.reflection.v1.ExtensionNumberResponse',
          baseTypeName: messageRequest.value,
          extensionNumber: index.extensionNumbers(messageRequest.value),
        },
      };
    default:
      return { case: 'errorResponse', value: error(Code.InvalidArgument, 'nothing is asked for') };
  }
}

const error = (errorCode: Code, errorMessage: string) => ({
  $typeName: 'grpc.reflection.v1.ErrorResponse' as const,
  errorCode,
  errorMessage,
});

/** The file, and all that it needs to be understood, each once. */
function withImports(file: DescFile, seen = new Set<DescFile>()): DescFile[] {
  if (seen.has(file)) return [];
  seen.add(file);
  return [file, ...file.dependencies.flatMap((dependency) => withImports(dependency, seen))];
}

/** Files by what is in them. */
class Index {
  readonly serviceNames: readonly string[];
  readonly #files = new Map<string, DescFile>();
  readonly #symbols = new Map<string, DescFile>();
  readonly #extensions = new Map<string, Map<number, DescFile>>();

  constructor(services: readonly DescService[]) {
    this.serviceNames = services.map((service) => service.typeName);
    const seen = new Set<DescFile>();
    for (const service of services) for (const file of withImports(service.file, seen)) this.#add(file);
  }

  file(name: string): DescFile | undefined {
    return this.#files.get(name);
  }

  symbol(name: string): DescFile | undefined {
    return this.#symbols.get(name.replace(/^\./, ''));
  }

  extension(typeName: string, number: number): DescFile | undefined {
    return this.#extensions.get(typeName)?.get(number);
  }

  extensionNumbers(typeName: string): number[] {
    return [...(this.#extensions.get(typeName)?.keys() ?? [])];
  }

  #add(file: DescFile): void {
    this.#files.set(file.proto.name, file);
    const add = (name: string): void => {
      this.#symbols.set(name, file);
    };
    const addMessage = (message: DescMessage): void => {
      add(message.typeName);
      for (const member of message.members) add(`${message.typeName}.${member.name}`);
      for (const nested of message.nestedMessages) addMessage(nested);
      for (const nested of message.nestedEnums) add(nested.typeName);
    };
    for (const message of file.messages) addMessage(message);
    for (const each of file.enums) add(each.typeName);
    for (const service of file.services) {
      add(service.typeName);
      for (const method of service.methods) add(`${service.typeName}.${method.name}`);
    }
    for (const extension of file.extensions) {
      add(extension.typeName);
      const of = this.#extensions.get(extension.extendee.typeName) ?? new Map<number, DescFile>();
      this.#extensions.set(extension.extendee.typeName, of.set(extension.number, file));
    }
  }
}

/** The v1 service under its older name. */
function alphaService(): DescService {
  const [from, to] = ['grpc.reflection.v1', 'grpc.reflection.v1alpha'];
  const proto = clone(FileDescriptorProtoSchema, ServerReflection.file.proto);
  proto.name = 'grpc/reflection/v1alpha/reflection.proto';
  proto.package = to;
  const rename = (type: string): string => type.replace(`.${from}.`, `.${to}.`);
  for (const message of proto.messageType) for (const field of message.field) field.typeName = rename(field.typeName);
  for (const method of proto.service.flatMap((service) => service.method)) {
    method.inputType = rename(method.inputType);
    method.outputType = rename(method.outputType);
  }
  const service = createFileRegistry(proto, () => undefined).getService(`${to}.ServerReflection`);
  if (!service) throw new Error(`${to}.ServerReflection is not there`);
  return service;
}
